// Attention of one step's tokens to keys and values that lie in blocks, and the writing of those.
//
// Keys of a block lie [kv_heads, key_size, block_tokens], values [kv_heads, block_tokens, value_size].
// So a vector of keys holds one component of neighbouring tokens and a vector of values neighbouring
// components of one token: both products run over whole vectors, and nothing is summed across one.
//
// Softmax is online (arXiv 2205.14135): kChunk tokens of context at a time, with the running maximum
// and sum of each row, so that memory does not grow with the context. Rows are independent of each
// other and chunks begin at position 0, so a row's bits depend neither on the batch nor on threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>

#include "lanes.hpp"
#include "module.hpp"
#include "workers.hpp"

namespace nb = nanobind;

namespace {

using silva::Bfloat16;
using silva::Floats;
using silva::kLanes;

constexpr std::size_t kChunk = 128;  // about so many tokens of context are scored at a time
constexpr std::size_t kRows = 64;    // about so many pairs of token and head share what is read
constexpr int kTile = 4;             // rows and vectors of a tile that stays in registers
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// How queries, blocks and the result lie in memory; strides in elements.
struct Layout {
    std::size_t heads, kv_heads, key_size, value_size, block_tokens, blocks;
    std::size_t query_token, query_head;
    std::size_t key_block, key_head, value_block, value_head;
    std::size_t group() const { return heads / kv_heads; }
    // Whole blocks, and what their scores take up: whole vectors.
    std::size_t chunk() const { return block_tokens * std::max<std::size_t>(1, kChunk / block_tokens); }
    std::size_t row() const { return (chunk() + kLanes - 1) / kLanes * kLanes; }
};

// Which tokens of the step belong to one sequence, how long that is with them, where its blocks are.
struct Sequence {
    std::size_t first, count, context;
    const std::int32_t* blocks;
};

// scores[r][c] = rows of queries times columns of keys, each column N neighbouring tokens.
template <class Value, int N, int R, int C>
void score_tile(const float* query, const Value* const* columns, std::size_t key_size,
                std::size_t step, float* scores, std::size_t stride) {
    Floats<N> sum[R][C] = {};
    for (std::size_t d = 0; d < key_size; ++d) {
        Floats<N> key[C];
        for (int c = 0; c < C; ++c) key[c] = silva::load<N>(columns[c] + d * step);
        for (int r = 0; r < R; ++r) {
            const float x = query[r * key_size + d];
            for (int c = 0; c < C; ++c) sum[r][c] += x * key[c];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) silva::store<N>(scores + r * stride + c * N, sum[r][c]);
}

// result[r][c] += weights[r][t] * values[t][c] over `tokens` tokens that lie in `blocks`.
template <class Value, int N, int R, int C>
void value_tile(const float* weights, std::size_t stride, const Value* const* blocks,
                std::size_t block_tokens, std::size_t tokens, std::size_t value_size,
                float* result) {
    Floats<N> sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] = silva::load<N>(result + r * value_size + c * N);
    for (std::size_t t = 0; t < tokens; ++blocks) {
        const Value* row = *blocks;
        const std::size_t end = std::min(tokens, t + block_tokens);
        for (; t < end; ++t, row += value_size) {
            Floats<N> value[C];
            for (int c = 0; c < C; ++c) value[c] = silva::load<N>(row + c * N);
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < C; ++c) sum[r][c] += weights[r * stride + t] * value[c];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) silva::store<N>(result + r * value_size + c * N, sum[r][c]);
}

template <class Value>
struct Tiles {
    using Score = decltype(&score_tile<Value, 1, 1, 1>);
    using Weigh = decltype(&value_tile<Value, 1, 1, 1>);
    // By rows - 1 and vectors - 1.
    std::array<std::array<Score, kTile>, kTile> score;
    std::array<std::array<Weigh, kTile>, kTile> weigh;
    std::size_t key_lanes, value_lanes;
};

template <class Value, int N, int R, std::size_t... C>
constexpr void fill_row(Tiles<Value>& tiles, bool keys, std::index_sequence<C...>) {
    if (keys)
        ((tiles.score[R][C] = &score_tile<Value, N, R + 1, static_cast<int>(C) + 1>), ...);
    else
        ((tiles.weigh[R][C] = &value_tile<Value, N, R + 1, static_cast<int>(C) + 1>), ...);
}

template <class Value, int N>
void fill(Tiles<Value>& tiles, bool keys) {
    const auto all = std::make_index_sequence<kTile>();
    fill_row<Value, N, 0>(tiles, keys, all);
    fill_row<Value, N, 1>(tiles, keys, all);
    fill_row<Value, N, 2>(tiles, keys, all);
    fill_row<Value, N, 3>(tiles, keys, all);
    (keys ? tiles.key_lanes : tiles.value_lanes) = N;
}

// The widest vectors that a block's tokens and a value's components divide into.
template <class Value>
Tiles<Value> choose(std::size_t block_tokens, std::size_t value_size) {
    Tiles<Value> tiles;
    for (const bool keys : {true, false}) {
        const std::size_t length = keys ? block_tokens : value_size;
        if (length % kLanes == 0)
            fill<Value, kLanes>(tiles, keys);
        else if (length % 8 == 0)
            fill<Value, 8>(tiles, keys);
        else
            fill<Value, 1>(tiles, keys);
    }
    return tiles;
}

// What one thread works in; it grows to the largest rows seen and stays.
template <class Value>
struct Scratch {
    std::vector<const Value*> columns, blocks;
    std::vector<float> query, scores, result, maximum, sum;

    void fit(std::size_t rows, const Layout& layout) {
        const auto grow = [](std::vector<float>& buffer, std::size_t size) {
            if (buffer.size() < size) buffer.resize(size);
        };
        grow(query, rows * layout.key_size);
        grow(scores, rows * layout.row());
        grow(result, rows * layout.value_size);
        grow(maximum, rows);
        grow(sum, rows);
    }
};

template <class Value>
struct Call {
    const Layout& layout;
    const Tiles<Value>& tiles;
    const float* q;
    const Value *keys, *values;
    float scale;
    float* out;
};

// Tokens [first, first + count) of the step, the last of which sees `limit` tokens of its sequence,
// with the heads that read keys of `kv_head`.
struct Item {
    const Sequence* sequence;
    std::size_t kv_head, first, count, limit;
};

// The rows of one item, from their queries to their result.
template <class Value>
class Rows {
 public:
    Rows(const Call<Value>& call, const Item& item, Scratch<Value>& scratch)
        : call_(call), layout_(call.layout), item_(item), s_(scratch), group_(layout_.group()),
          rows_(item.count * group_) {}

    void attend() {
        begin();
        for (std::size_t start = 0; start < item_.limit; start += layout_.chunk()) {
            const std::size_t tokens = std::min(layout_.chunk(), item_.limit - start);
            locate(start, tokens);
            score();
            for (std::size_t row = 0; row < rows_; ++row) {
                const std::size_t sees = item_.limit - (item_.count - 1 - row / group_);
                soften(row, sees > start ? std::min(tokens, sees - start) : 0);
            }
            weigh(tokens);
        }
        for (std::size_t row = 0; row < rows_; ++row) {
            const float* from = s_.result.data() + row * layout_.value_size;
            float* to = call_.out + ((item_.first + row / group_) * layout_.heads + head(row)) *
                                        layout_.value_size;
            for (std::size_t d = 0; d < layout_.value_size; ++d) to[d] = from[d] / s_.sum[row];
        }
    }

 private:
    std::size_t head(std::size_t row) const { return item_.kv_head * group_ + row % group_; }

    void begin() {
        const std::size_t size = layout_.key_size;
        s_.fit(rows_, layout_);
        std::fill_n(s_.result.begin(), rows_ * layout_.value_size, 0.0f);
        std::fill_n(s_.maximum.begin(), rows_, kMinusInfinity);
        std::fill_n(s_.sum.begin(), rows_, 0.0f);
        for (std::size_t row = 0; row < rows_; ++row) {
            const float* from = call_.q + (item_.first + row / group_) * layout_.query_token +
                                head(row) * layout_.query_head;
            float* to = s_.query.data() + row * size;
            for (std::size_t d = 0; d < size; ++d) to[d] = from[d] * call_.scale;
        }
    }

    // Where the vectors of keys and the blocks of values of a chunk begin.
    void locate(std::size_t start, std::size_t tokens) {
        const std::size_t size = layout_.block_tokens;
        s_.columns.clear();
        s_.blocks.clear();
        for (std::size_t t = 0; t < tokens; t += size) {
            const auto block = static_cast<std::size_t>(item_.sequence->blocks[(start + t) / size]);
            const Value* keys =
                call_.keys + block * layout_.key_block + item_.kv_head * layout_.key_head;
            for (std::size_t i = 0; i < std::min(size, tokens - t); i += call_.tiles.key_lanes)
                s_.columns.push_back(keys + i);
            s_.blocks.push_back(call_.values + block * layout_.value_block +
                              item_.kv_head * layout_.value_head);
        }
    }

    void score() {
        const std::size_t lanes = call_.tiles.key_lanes, stride = layout_.row();
        for (std::size_t row = 0; row < rows_; row += kTile) {
            const std::size_t r = std::min<std::size_t>(kTile, rows_ - row) - 1;
            for (std::size_t column = 0; column < s_.columns.size(); column += kTile) {
                const std::size_t c = std::min<std::size_t>(kTile, s_.columns.size() - column) - 1;
                call_.tiles.score[r][c](s_.query.data() + row * layout_.key_size, &s_.columns[column],
                                        layout_.key_size, layout_.block_tokens,
                                        s_.scores.data() + row * stride + column * lanes, stride);
            }
        }
    }

    // Scores of a row become weights; what it must not see, or what is not there, weighs nothing.
    void soften(std::size_t row, std::size_t sees) {
        const std::size_t stride = layout_.row();
        float* scores = s_.scores.data() + row * stride;
        if (sees == 0) {
            std::fill_n(scores, stride, 0.0f);
            return;
        }
        std::fill(scores + sees, scores + stride, kMinusInfinity);
        Floats<kLanes> largest = Floats<kLanes>{} + s_.maximum[row];
        for (std::size_t t = 0; t < stride; t += kLanes) {
            const auto some = silva::load<kLanes>(scores + t);
            largest = some > largest ? some : largest;
        }
        float maximum = largest[0];
        for (int lane = 1; lane < kLanes; ++lane) maximum = std::max(maximum, largest[lane]);
        Floats<kLanes> sums = {};
        for (std::size_t t = 0; t < stride; t += kLanes) {
            const auto weights =
                silva::exp_nonpositive<kLanes>(silva::load<kLanes>(scores + t) - maximum);
            silva::store<kLanes>(scores + t, weights);
            sums += weights;
        }
        float sum = 0.0f;
        for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
        const float kept = std::exp(s_.maximum[row] - maximum);
        s_.sum[row] = s_.sum[row] * kept + sum;
        s_.maximum[row] = maximum;
        float* result = s_.result.data() + row * layout_.value_size;
        if (kept != 1.0f)
            for (std::size_t d = 0; d < layout_.value_size; ++d) result[d] *= kept;
    }

    void weigh(std::size_t tokens) {
        const std::size_t size = layout_.value_size, lanes = call_.tiles.value_lanes;
        for (std::size_t d = 0; d < size; d += kTile * lanes) {
            const std::size_t c = std::min<std::size_t>(kTile, (size - d) / lanes) - 1;
            s_.columns.assign(s_.blocks.begin(), s_.blocks.end());
            for (auto& column : s_.columns) column += d;
            for (std::size_t row = 0; row < rows_; row += kTile) {
                const std::size_t r = std::min<std::size_t>(kTile, rows_ - row) - 1;
                call_.tiles.weigh[r][c](s_.scores.data() + row * layout_.row(), layout_.row(),
                                        s_.columns.data(), layout_.block_tokens, tokens, size,
                                        s_.result.data() + row * size + d);
            }
        }
    }

    const Call<Value>& call_;
    const Layout& layout_;
    const Item& item_;
    Scratch<Value>& s_;
    const std::size_t group_, rows_;
};

template <class Value>
void attend(const Call<Value>& call, const std::vector<Sequence>& sequences, std::size_t threads) {
    const std::size_t most = std::max<std::size_t>(1, kRows / call.layout.group());
    std::vector<Item> items;
    for (const auto& s : sequences)
        for (std::size_t done = 0; done < s.count; done += most) {
            const std::size_t count = std::min(most, s.count - done);
            const std::size_t limit = s.context - s.count + done + count;
            for (std::size_t head = 0; head < call.layout.kv_heads; ++head)
                items.push_back({&s, head, s.first + done, count, limit});
        }
    silva::Workers::shared().run(threads, items.size(), [&](std::size_t i) {
        static thread_local Scratch<Value> scratch;
        Rows<Value>(call, items[i], scratch).attend();
    });
}

using Table = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<Sequence> sequences_of(const Layout& layout, const Table& table, const Indices& starts,
                                   const Indices& contexts) {
    const std::size_t n = table.shape(0), width = table.shape(1);
    if (starts.shape(0) != n + 1 || contexts.shape(0) != n)
        throw std::invalid_argument("table, starts and contexts must be of the same sequences");
    std::vector<Sequence> sequences;
    for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t first = starts(i), count = starts(i + 1) - first, context = contexts(i);
        if (first < 0 || count < 0 || context < count)
            throw std::invalid_argument("a sequence has more queries than tokens");
        const Sequence s{static_cast<std::size_t>(first), static_cast<std::size_t>(count),
                         static_cast<std::size_t>(context), table.data() + i * width};
        const std::size_t blocks = (s.context + layout.block_tokens - 1) / layout.block_tokens;
        if (blocks > width) throw std::invalid_argument("a context is longer than its block table");
        for (std::size_t b = 0; b < blocks; ++b)
            if (s.blocks[b] < 0 || static_cast<std::size_t>(s.blocks[b]) >= layout.blocks)
                throw std::invalid_argument("a block table names a block that does not exist");
        sequences.push_back(s);
    }
    return sequences;
}

// Tensors come as addresses: their types, shapes and strides were checked in paged.py.
void paged_attention(std::uintptr_t out, std::uintptr_t q, std::uintptr_t keys,
                     std::uintptr_t values, bool bfloat16,
                     std::array<std::size_t, 12> sizes, Table table, Indices starts,
                     Indices contexts, float scale, std::size_t threads) {
    const Layout layout{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5],
                        sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], sizes[11]};
    const auto sequences = sequences_of(layout, table, starts, contexts);
    nb::gil_scoped_release release;
    const auto call = [&](auto value) {
        using Value = decltype(value);
        const auto tiles = choose<Value>(layout.block_tokens, layout.value_size);
        attend<Value>({layout, tiles, reinterpret_cast<const float*>(q),
                       reinterpret_cast<const Value*>(keys), reinterpret_cast<const Value*>(values),
                       scale, reinterpret_cast<float*>(out)},
                      sequences, threads);
    };
    bfloat16 ? call(Bfloat16{}) : call(float{});
}

}  // namespace

void bind_attention(nb::module_& module) {
    module.def("paged_attention", &paged_attention, nb::arg("out"), nb::arg("q"), nb::arg("keys"),
               nb::arg("values"), nb::arg("bfloat16"), nb::arg("sizes"),
               nb::arg("table").noconvert(), nb::arg("starts").noconvert(),
               nb::arg("contexts").noconvert(), nb::arg("scale"), nb::arg("threads"),
               "Attention of q to blocks of keys and values; see paged.py.");
}
