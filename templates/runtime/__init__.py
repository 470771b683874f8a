"""What every generated model runs on: time, caches, modules, generation and weights. Imports torch and safetensors."""
