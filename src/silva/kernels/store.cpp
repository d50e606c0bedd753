// Writing the keys and values of one step's tokens to their places in blocks.
//
// Keys of a block lie [kv_heads, key_size, block_tokens], values [kv_heads, block_tokens, value_size],
// as attention.cpp reads them. Nothing is converted here, so only the size of an element matters.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>

#include "module.hpp"

namespace nb = nanobind;

namespace {

struct Layout {
    std::size_t kv_heads, key_size, value_size, block_tokens, blocks;
    std::size_t k_token, k_head, v_token, v_head;  // strides in elements, as those below
    std::size_t key_block, key_head, value_block, value_head;
};

using Slots = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Element>
void store(const Layout& s, const Element* k, const Element* v, Element* keys, Element* values,
           const std::int64_t* slots, std::size_t tokens) {
    for (std::size_t token = 0; token < tokens; ++token) {
        const std::size_t slot = static_cast<std::size_t>(slots[token]);
        const std::size_t block = slot / s.block_tokens, place = slot % s.block_tokens;
        for (std::size_t head = 0; head < s.kv_heads; ++head) {
            const Element* from = k + token * s.k_token + head * s.k_head;
            Element* to = keys + block * s.key_block + head * s.key_head + place;
            for (std::size_t d = 0; d < s.key_size; ++d) to[d * s.block_tokens] = from[d];
            std::memcpy(
                values + block * s.value_block + head * s.value_head + place * s.value_size,
                v + token * s.v_token + head * s.v_head, s.value_size * sizeof(Element));
        }
    }
}

// Tensors come as addresses, checked in paged.py; see attention.cpp.
void store_kv(std::uintptr_t k, std::uintptr_t v, std::uintptr_t keys, std::uintptr_t values,
              bool bfloat16, std::array<std::size_t, 13> sizes, Slots slots) {
    const Layout layout{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5], sizes[6],
                        sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12]};
    const auto places = static_cast<std::int64_t>(layout.blocks * layout.block_tokens);
    for (std::size_t i = 0; i < slots.shape(0); ++i)
        if (slots(i) < 0 || slots(i) >= places)
            throw std::invalid_argument("a slot lies outside the blocks");
    nb::gil_scoped_release release;
    const auto call = [&](auto element) {
        using Element = decltype(element);
        store(layout, reinterpret_cast<const Element*>(k), reinterpret_cast<const Element*>(v),
              reinterpret_cast<Element*>(keys), reinterpret_cast<Element*>(values), slots.data(),
              slots.shape(0));
    };
    bfloat16 ? call(std::uint16_t{}) : call(std::uint32_t{});
}

}  // namespace

void bind_store(nb::module_& module) {
    module.def("store_kv", &store_kv, nb::arg("k"), nb::arg("v"), nb::arg("keys"),
               nb::arg("values"), nb::arg("bfloat16"), nb::arg("sizes"),
               nb::arg("slots").noconvert(), "Writes keys and values to slots; see paged.py.");
}
