"""Row programs printed as C++."""

from archc.rows.cpp.printer import print_cpp as print_cpp
