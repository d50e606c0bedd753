// The compiled operators of silva.kernels, as one Python module.

#include "module.hpp"

NB_MODULE(_native, module) {
    module.doc() =
        "Compiled operators; see native.py and paged.py beside it, native_moves.py and flags.py of "
        "silva.experts.";
    bind_overlap(module);
    bind_attention(module);
    bind_store(module);
    bind_exchange(module);
}
