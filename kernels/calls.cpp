// Runs kernels on tensors: looks at operands, makes what is given and calls, without Python between.
//
// A token that is decoded calls a hundred of them, for each of which Python takes longer than the kernel. What is not
// for a kernel (other dtypes, gaps, gradients, subclasses, transforms, autocast) gives None, and Python decides.

#include <Python.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace {

constexpr size_t MOST = 48;  // pointers that a kernel takes

struct Take {
    int64_t place, size, shared;  // of operands; its numbers of a token; tokens that have it in common, 0: all
    at::ScalarType dtype;
};

struct Give {
    std::vector<int64_t> own;
    at::ScalarType dtype;
};

struct Call {
    void* function;
    int64_t lead, first, size;  // dims that count tokens, and of which take; its numbers of a token
    std::vector<Take> takes;
    std::vector<Give> gives;
};

std::array<PyTypeObject*, 3> plain;

// Whether ops of PyTorch would just run: nobody transforms, counts, traces or casts them.
bool undisturbed() {
    const auto on = c10::impl::tls_is_dispatch_key_included;
    return !on(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) && !on(c10::DispatchKey::Python) &&
           !on(c10::DispatchKey::Tracer) && c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU);
}

// Where the numbers of a tensor lie; kernels write to none of those that they take.
void* place_of(const at::Tensor& x) { return const_cast<void*>(x.const_data_ptr()); }

// The tensor that an object is, if kernels may read it where it lies.
const at::Tensor* readable(PyObject* object, at::ScalarType dtype) {
    if (std::find(plain.begin(), plain.end(), Py_TYPE(object)) == plain.end()) return nullptr;
    const at::Tensor& x = THPVariable_Unpack(object);
    const bool fits = x.device().is_cpu() && x.scalar_type() == dtype && x.layout() == at::kStrided && !x.is_neg() &&
                      x.is_contiguous() && !(x.requires_grad() && c10::GradMode::is_enabled()) &&
                      (x.numel() == 0 || place_of(x));
    return fits ? &x : nullptr;
}

at::Tensor made(at::IntArrayRef shape, at::ScalarType dtype) {
    return at::empty(shape, at::TensorOptions().dtype(dtype).device(at::kCPU));
}

template <size_t... I>
void called(void* function, void* const* p, int64_t tokens, std::index_sequence<I...>) {
    using Kernel = void (*)(decltype((void)I, (void*)nullptr)..., int64_t);
    reinterpret_cast<Kernel>(function)(p[I]..., tokens);
}

template <size_t N>
void called_with(void* function, void* const* p, int64_t tokens) {
    called(function, p, tokens, std::make_index_sequence<N>());
}

template <size_t... N>
constexpr auto callers_of(std::index_sequence<N...>) {
    return std::array<void (*)(void*, void* const*, int64_t), sizeof...(N)>{called_with<N>...};
}

constexpr auto callers = callers_of(std::make_index_sequence<MOST + 1>());

PyObject* nothing() { Py_RETURN_NONE; }

PyObject* run_call(const Call& call, PyObject* const* operands, Py_ssize_t count) {
    if (!undisturbed()) return nothing();
    std::array<const at::Tensor*, MOST> x;
    std::array<void*, MOST> pointers;
    const size_t takes = call.takes.size();
    for (size_t i = 0; i < takes; i++) {
        const Take& take = call.takes[i];
        x[i] = take.place < count ? readable(operands[take.place], take.dtype) : nullptr;
        if (!x[i]) return nothing();
        pointers[i] = place_of(*x[i]);
    }
    const at::Tensor& first = *x[call.first];
    if (first.dim() < call.lead) return nothing();
    const int64_t tokens = first.numel() / call.size;
    for (size_t i = 0; i < takes; i++) {
        const Take& take = call.takes[i];
        const int64_t numel = x[i]->numel();
        if (take.shared ? numel * take.shared != tokens * take.size : numel != take.size) return nothing();
    }
    std::vector<at::Tensor> given;
    given.reserve(call.gives.size());
    c10::SmallVector<int64_t, 8> shape;
    for (const Give& give : call.gives) {
        shape.assign(first.sizes().begin(), first.sizes().begin() + call.lead);
        shape.append(give.own.begin(), give.own.end());
        given.push_back(made(shape, give.dtype));
        pointers[takes + given.size() - 1] = given.back().data_ptr();
    }
    if (tokens) {
        Py_BEGIN_ALLOW_THREADS
        callers[takes + given.size()](call.function, pointers.data(), tokens);
        Py_END_ALLOW_THREADS
    }
    if (given.size() == 1) return THPVariable_Wrap(std::move(given[0]));
    PyObject* several = PyTuple_New(Py_ssize_t(given.size()));
    for (size_t i = 0; several && i < given.size(); i++) {
        PyObject* one = THPVariable_Wrap(std::move(given[i]));
        if (!one) return Py_DECREF(several), nullptr;
        PyTuple_SET_ITEM(several, Py_ssize_t(i), one);
    }
    return several;
}

PyObject* run_linear(void* function, int64_t most, int64_t threads, at::ScalarType dtype, PyObject* const* operands) {
    if (!undisturbed()) return nothing();
    const at::Tensor *x = readable(operands[0], dtype), *weight = readable(operands[1], dtype), *bias = nullptr;
    if (!x || !weight || weight->dim() != 2 || x->dim() == 0) return nothing();
    if (operands[2] != Py_None && !(bias = readable(operands[2], dtype))) return nothing();
    const int64_t in = weight->size(1), out = weight->size(0);
    if (x->size(-1) != in || in == 0 || (bias && (bias->dim() != 1 || bias->size(0) != out))) return nothing();
    const int64_t rows = x->numel() / in;
    if (rows > most) return nothing();
    c10::SmallVector<int64_t, 8> shape(x->sizes().begin(), x->sizes().end());
    shape.back() = out;
    at::Tensor y = made(shape, dtype);
    using Kernel = void (*)(void*, void*, void*, void*, int64_t, int64_t, int64_t, int64_t);
    void *from = place_of(*x), *matrix = place_of(*weight), *added = bias ? place_of(*bias) : nullptr, *to = y.data_ptr();
    Py_BEGIN_ALLOW_THREADS
    reinterpret_cast<Kernel>(function)(from, matrix, added, to, rows, out, in, threads);
    Py_END_ALLOW_THREADS
    return THPVariable_Wrap(std::move(y));
}

// What is thrown, as errors of Python.
template <class Run>
PyObject* guarded(Run&& run) {
    try {
        return run();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
}

at::ScalarType dtype_of(int narrow) { return narrow ? at::kBFloat16 : at::kFloat; }

void forget(PyObject* capsule) { delete static_cast<Call*>(PyCapsule_GetPointer(capsule, "call")); }

// prepare(address, lead, first, size, takes, gives): a call, for `run`. takes: (place, size, shared, narrow) each; gives:
// (own dims, narrow) each. None where it has too many arrays.
PyObject* prepare(PyObject*, PyObject* args) {
    Call call;
    unsigned long long address;
    PyObject *takes, *gives;
    if (!PyArg_ParseTuple(args, "KLLLO!O!", &address, &call.lead, &call.first, &call.size, &PyList_Type, &takes,
                          &PyList_Type, &gives))
        return nullptr;
    call.function = reinterpret_cast<void*>(address);
    if (size_t(PyList_GET_SIZE(takes) + PyList_GET_SIZE(gives)) > MOST) return nothing();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(takes); i++) {
        Take take;
        int narrow;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(takes, i), "LLLp", &take.place, &take.size, &take.shared, &narrow))
            return nullptr;
        take.dtype = dtype_of(narrow);
        call.takes.push_back(take);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(gives); i++) {
        Give give;
        PyObject* own;
        int narrow;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(gives, i), "O!p", &PyTuple_Type, &own, &narrow)) return nullptr;
        for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(own); d++)
            give.own.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(own, d)));
        if (PyErr_Occurred()) return nullptr;
        give.dtype = dtype_of(narrow);
        call.gives.push_back(std::move(give));
    }
    return PyCapsule_New(new Call(std::move(call)), "call", forget);
}

// run(call, *operands): what a kernel gives of operands, one tensor or several, or None where they are not for it.
PyObject* run(PyObject*, PyObject* const* args, Py_ssize_t count) {
    const auto* call = static_cast<const Call*>(count ? PyCapsule_GetPointer(args[0], "call") : nullptr);
    if (!call) return PyErr_Occurred() ? nullptr : nothing();
    return guarded([&] { return run_call(*call, args + 1, count - 1); });
}

// linear(address, narrow, most, threads, x, weight, bias or None): `linear` of at most so many rows, or None.
PyObject* linear(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 7) return PyErr_Format(PyExc_TypeError, "linear takes 7 arguments");
    void* function = PyLong_AsVoidPtr(args[0]);
    const int64_t most = PyLong_AsLongLong(args[2]), threads = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred()) return nullptr;
    const at::ScalarType dtype = dtype_of(PyObject_IsTrue(args[1]));
    return guarded([&] { return run_linear(function, most, threads, dtype, args + 4); });
}

// setup(Tensor, Parameter, Buffer): the types of which operands may be.
PyObject* setup(PyObject*, PyObject* args) {
    PyObject *a, *b, *c;
    if (!PyArg_ParseTuple(args, "OOO", &a, &b, &c)) return nullptr;
    plain = {(PyTypeObject*)a, (PyTypeObject*)b, (PyTypeObject*)c};
    return nothing();
}

PyMethodDef methods[] = {
    {"setup", setup, METH_VARARGS, nullptr},
    {"prepare", prepare, METH_VARARGS, nullptr},
    {"run", (PyCFunction)(void (*)())run, METH_FASTCALL, nullptr},
    {"linear", (PyCFunction)(void (*)())linear, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "calls", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_calls() { return PyModule_Create(&definition); }
