// What the compiled module is put together from: each operator's file hangs its functions in.
#pragma once

#include <nanobind/nanobind.h>

void bind_overlap(nanobind::module_& module);
void bind_attention(nanobind::module_& module);
void bind_store(nanobind::module_& module);
void bind_exchange(nanobind::module_& module);
