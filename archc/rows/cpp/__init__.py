"""Row programs printed as C++."""

from archc.rows.cpp.printer import print_cpp as print_cpp
from archc.rows.cpp.printer import translation_unit as translation_unit
from archc.rows.cpp.schedule import NoCpp as NoCpp
from archc.rows.cpp.text import HEAD as HEAD
