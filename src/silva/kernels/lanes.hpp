// Short vectors of floats in the notation of GCC and Clang, and the few functions they lack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace silva {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

template <class Value, int N>
struct VectorOf {
    typedef Value type __attribute__((vector_size(N * sizeof(Value))));
};
template <int N>
using Floats = typename VectorOf<float, N>::type;

// A bfloat16 is the upper half of a float.
struct Bfloat16 {
    std::uint16_t bits;
};

template <int N>
inline Floats<N> load(const float* from) {
    Floats<N> values;
    std::memcpy(&values, from, sizeof(values));
    return values;
}

template <int N>
inline Floats<N> load(const Bfloat16* from) {
    typename VectorOf<std::uint16_t, N>::type halves;
    std::memcpy(&halves, from, sizeof(halves));
    using Words = typename VectorOf<std::uint32_t, N>::type;
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Floats<N> values;
    std::memcpy(&values, &words, sizeof(values));
    return values;
}

template <int N>
inline void store(float* to, Floats<N> values) {
    std::memcpy(to, &values, sizeof(values));
}

// e^x for x <= 0 to 2 units in the last place; 0 below -87.3, NaN stays NaN. Cephes' polynomial.
template <int N>
inline Floats<N> exp_nonpositive(Floats<N> x) {
    using Ints = typename VectorOf<std::int32_t, N>::type;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats<N> n = (x * 1.44269504088896341f + kRound) - kRound;
    const Floats<N> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats<N> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    Floats<N> scale;
    std::memcpy(&scale, &power, sizeof(scale));
    return x < -87.3f ? Floats<N>{} : y * scale;
}

}  // namespace silva
