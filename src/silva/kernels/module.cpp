// The compiled operators of silva.kernels, as one Python module.

#include "module.hpp"

NB_MODULE(_native, module) {
    module.doc() = "Compiled operators of silva.kernels; see native.py, paged.py and exchange.py.";
    bind_overlap(module);
    bind_attention(module);
    bind_store(module);
    bind_exchange(module);
}
