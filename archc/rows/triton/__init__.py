"""Row programs printed as Triton."""

from archc.rows.triton.forward import print_forward as print_forward
from archc.rows.triton.printed import Printed as Printed
