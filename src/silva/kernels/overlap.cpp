// Overlap of subspaces for every pair of clients: mean over modules of ||U_i^T U_j||_F^2 / r.
//
// Stacking the bases of one module side by side gives X [p, n r], and every U_i^T U_j is a block of
// X^T X. That product is computed tile by tile like a matrix multiplication, and each tile is squared
// and summed while it is still in registers, so the (n r)^2 product is never stored.
//
// Numbers: dot products in float, sums of squares in double over tiles and modules, always in the same
// order. The same build therefore returns the same bits.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "module.hpp"

namespace nb = nanobind;

namespace {

#if defined(__AVX512F__)
constexpr std::size_t kLanes = 16;
#else
constexpr std::size_t kLanes = 8;
#endif
// 4 x 3 accumulators, 3 columns and 1 broadcast fill the 16 registers of AVX2 without spilling.
constexpr std::size_t kRows = 4;
constexpr std::size_t kVectors = 3;
constexpr std::size_t kColumns = kVectors * kLanes;
static_assert(kColumns % kRows == 0, "a tile's rows must lie inside one panel");

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

struct Shape {
    std::size_t clients, modules, p, r;
    std::size_t columns() const { return clients * r; }
    std::size_t panels() const { return (columns() + kColumns - 1) / kColumns; }
};

// Columns [panel, row, kColumns] of one module, zero where the last panel is not full.
class Panels {
   public:
    explicit Panels(const Shape& shape)
        : shape_(shape), data_(shape.panels() * shape.p * kVectors, Lanes{}) {}

    void pack(const float* bases, std::size_t module) {
        const auto& s = shape_;
        for (std::size_t client = 0; client < s.clients; ++client) {
            const float* basis = bases + (client * s.modules + module) * s.p * s.r;
            for (std::size_t c = 0; c < s.r; ++c) {
                float* to = column(client * s.r + c);
                for (std::size_t row = 0; row < s.p; ++row) to[row * kColumns] = basis[row * s.r + c];
            }
        }
    }

    // First value of a column; the next row's lies kColumns further.
    float* column(std::size_t index) {
        auto* base = reinterpret_cast<float*>(data_.data());
        return base + (index / kColumns) * shape_.p * kColumns + index % kColumns;
    }

   private:
    Shape shape_;
    std::vector<Lanes> data_;
};

// tile[a][b] = dot product of column a of `left` and column b of `right`.
inline void multiply(const float* left, const float* right, std::size_t p,
                     Lanes (&tile)[kRows][kVectors]) {
    Lanes sum[kRows][kVectors] = {};
    for (std::size_t row = 0; row < p; ++row, left += kColumns, right += kColumns) {
        const Lanes* columns = reinterpret_cast<const Lanes*>(right);
        const Lanes c0 = columns[0], c1 = columns[1], c2 = columns[2];
        for (std::size_t a = 0; a < kRows; ++a) {
            sum[a][0] += left[a] * c0;
            sum[a][1] += left[a] * c1;
            sum[a][2] += left[a] * c2;
        }
    }
    std::memcpy(tile, sum, sizeof(sum));
}

// Adds the tile's squares to the pairs of clients that its rows and columns belong to.
class PairSums {
   public:
    PairSums(const Shape& shape, double* out)
        : clients_(shape.clients), out_(out), owner_(shape.panels() * kColumns) {
        for (std::size_t c = 0; c < owner_.size(); ++c) owner_[c] = c / shape.r;
        std::fill(out_, out_ + clients_ * clients_, 0.0);
    }

    std::size_t owner(std::size_t column) const { return owner_[column]; }

    void add(const Lanes (&tile)[kRows][kVectors], std::size_t a0, std::size_t b0) {
        for (std::size_t a = 0; a < kRows && owner_[a0 + a] < clients_;) {
            const std::size_t i = owner_[a0 + a];
            Lanes squares[kVectors] = {};
            for (; a < kRows && owner_[a0 + a] == i; ++a)
                for (std::size_t v = 0; v < kVectors; ++v) squares[v] += tile[a][v] * tile[a][v];
            float values[kColumns];
            std::memcpy(values, squares, sizeof(values));
            add_row(values, i, b0);
        }
    }

    // Only i <= j was summed: mirror it, and divide by modules and rank.
    void finish(double divisor) {
        for (std::size_t i = 0; i < clients_; ++i)
            for (std::size_t j = i; j < clients_; ++j)
                out_[i * clients_ + j] = out_[j * clients_ + i] = out_[i * clients_ + j] / divisor;
    }

   private:
    void add_row(const float* values, std::size_t i, std::size_t b0) {
        for (std::size_t b = 0; b < kColumns && owner_[b0 + b] < clients_;) {
            const std::size_t j = owner_[b0 + b];
            double sum = 0.0;
            for (; b < kColumns && owner_[b0 + b] == j; ++b) sum += values[b];
            if (i <= j) out_[i * clients_ + j] += sum;
        }
    }

    std::size_t clients_;
    double* out_;
    std::vector<std::size_t> owner_;
};

void overlap(const float* bases, const Shape& shape, double* out) {
    Panels panels(shape);
    PairSums sums(shape, out);
    Lanes tile[kRows][kVectors];
    for (std::size_t module = 0; module < shape.modules; ++module) {
        panels.pack(bases, module);
        for (std::size_t b0 = 0; b0 < shape.columns(); b0 += kColumns) {
            const std::size_t last = sums.owner(std::min(b0 + kColumns, shape.columns()) - 1);
            for (std::size_t a0 = 0; a0 < shape.columns() && sums.owner(a0) <= last; a0 += kRows) {
                multiply(panels.column(a0), panels.column(b0), shape.p, tile);
                sums.add(tile, a0, b0);
            }
        }
    }
    sums.finish(static_cast<double>(shape.modules * shape.r));
}

using Bases = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Overlaps = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void projector_overlap(Bases bases, Overlaps out) {
    const Shape shape{bases.shape(0), bases.shape(1), bases.shape(2), bases.shape(3)};
    if (shape.modules == 0 || shape.p == 0 || shape.r == 0)
        throw std::invalid_argument("bases must not be empty");
    if (out.shape(0) != shape.clients || out.shape(1) != shape.clients)
        throw std::invalid_argument("out must be [n, n]");
    nb::gil_scoped_release release;
    overlap(bases.data(), shape, out.data());
}

}  // namespace

void bind_overlap(nb::module_& module) {
    module.def("projector_overlap", &projector_overlap, nb::arg("bases").noconvert(),
               nb::arg("out").noconvert(),
               "out [n, n] = mean over m of ||U_i^T U_j||_F^2 / r for bases [n, m, p, r].");
}
