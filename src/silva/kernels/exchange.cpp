// Moving tokens between the memories of expert ranks: write, wait, gather, answer, sum.
//
// Where everything lies in a rank's memory is silva/experts/layout.py's, whose twin this is. A flag
// is written last and read first, with the barriers that any processor needs for that. Who waits
// sleeps on the flag itself (man 2 futex).

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "module.hpp"

namespace nb = nanobind;

namespace {

using Word = std::uint32_t;
using Bytes = unsigned char;

constexpr std::size_t LINE = 64, SCALE = 512, HEADER = 3;  // as sizes.py has them

// A rank's memory: control words, then tokens that arrive, then answers that arrive.
struct Shape {
    std::size_t ranks, rank, max_tokens, slots, hidden, line;
    bool bfloat16, int8;

    explicit Shape(const std::array<std::size_t, 8>& s)
        : ranks(s[0]), rank(s[1]), max_tokens(s[2]), slots(s[3]), hidden(s[4]), line(s[5]),
          bfloat16(s[6] != 0), int8(s[7] != 0) {}

    std::size_t answer() const { return hidden * (bfloat16 ? 2 : 4); }
    std::size_t message() const { return int8 ? hidden + SCALE : answer(); }
    std::size_t control() const { return ranks * (2 * line + LINE); }
    Word* flag(Bytes* memory, std::size_t of, std::size_t number) const {
        return reinterpret_cast<Word*>(memory + ((number % 2) * ranks + of) * line);
    }
    Word* answered(Bytes* memory, std::size_t of) const {
        return reinterpret_cast<Word*>(memory + 2 * ranks * line + of * LINE);
    }
    Bytes* tokens(Bytes* memory, std::size_t of) const {
        return memory + control() + of * max_tokens * message();
    }
    Bytes* answers(Bytes* memory, std::size_t of) const {
        return memory + control() + ranks * max_tokens * message() + of * max_tokens * answer();
    }
};

using Bases = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Table = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Row = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Bytes* base(const Bases& bases, std::size_t rank) { return reinterpret_cast<Bytes*>(bases(rank)); }

Word look(Word* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

void raise_flag(Word* word, std::size_t number) {
    __atomic_store_n(word, static_cast<Word>(number), __ATOMIC_RELEASE);
#if defined(__linux__)
    ::syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
#endif
}

void sleep_on(Word* word, Word seen, double seconds) {
#if defined(__linux__)
    const auto whole = static_cast<time_t>(seconds);
    const timespec limit{whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
    ::syscall(SYS_futex, word, FUTEX_WAIT, seen, &limit, nullptr, 0);
#else
    (void)word, (void)seen, (void)seconds;
#endif
}

float widened(std::uint16_t bits) {
    const std::uint32_t whole = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &whole, sizeof value);
    return value;
}
float widened(float value) { return value; }

// Round to nearest, ties to even, as torch rounds; what is no number stays none.
void narrowed(float value, std::uint16_t& out) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    out = static_cast<std::uint16_t>(value != value ? 0x7fc0 : rounded);
}
void narrowed(float value, float& out) { out = value; }

// One token as a message: its values over one symmetric scale, and the scale beside them. Where a
// value is no number the scale is none, and so is the token that is read.
template <class Element>
void quantise(const Element* x, std::size_t size, std::int8_t* data) {
    float most = 0;
    for (std::size_t d = 0; d < size; ++d) {
        const float value = std::fabs(widened(x[d]));
        if (value > most || value != value) most = value;
    }
    const float scale = std::max(most, 1e-30f) / 127;
    for (std::size_t d = 0; d < size; ++d) {
        const float whole = std::nearbyintf(widened(x[d]) / scale);
        data[d] = whole == whole ? static_cast<std::int8_t>(whole) : 0;
    }
    std::memcpy(data + size, &scale, sizeof scale);
}

template <class Element>
void dequantise(const Bytes* message, std::size_t size, Element* out) {
    const auto* data = reinterpret_cast<const std::int8_t*>(message);
    float scale;
    std::memcpy(&scale, message + size, sizeof scale);
    for (std::size_t d = 0; d < size; ++d) narrowed(static_cast<float>(data[d]) * scale, out[d]);
}

// Where copies go: the place of each [tokens, top_k], then the number of each place [ranks, slots].
void choose_places(const Shape& s, const Table<const std::int64_t>& experts, const Row& held,
                   const Table<const std::int64_t>& replicas, const Table<std::int64_t>& places,
                   const Table<std::int64_t>& counts) {
    if (counts.shape(0) != s.ranks || counts.shape(1) != s.slots ||
        places.shape(0) != experts.shape(0) || places.shape(1) != experts.shape(1) ||
        replicas.shape(0) != held.shape(0))
        throw std::invalid_argument("the tables do not fit each other");
    std::fill_n(counts.data(), s.ranks * s.slots, 0);
    const auto end = static_cast<std::int64_t>(s.ranks * s.slots);
    for (std::size_t t = 0; t < experts.shape(0); ++t)
        for (std::size_t k = 0; k < experts.shape(1); ++k) {
            const std::int64_t expert = experts(t, k);
            if (expert < 0 || static_cast<std::size_t>(expert) >= held.shape(0))
                throw std::invalid_argument("there is no such expert");
            const auto turns = static_cast<std::size_t>(std::max<std::int64_t>(1, held(expert)));
            if (turns > replicas.shape(1)) throw std::invalid_argument("there is no such replica");
            places(t, k) = replicas(expert, (t + s.rank) % turns);
            if (places(t, k) >= end) throw std::invalid_argument("there is no such place");
            if (places(t, k) >= 0) ++counts.data()[places(t, k)];
        }
}

// Writes tokens into the memories of those who hold their experts; see native_moves.py.
void send(Bases bases, std::array<std::size_t, 8> sizes, std::size_t number, Word topic,
          Word placement, std::uintptr_t x, Table<const std::int64_t> experts, Row held,
          Table<const std::int64_t> replicas, Table<std::int64_t> answers,
          Table<std::int64_t> counts) {
    const Shape s(sizes);
    nb::gil_scoped_release release;
    choose_places(s, experts, held, replicas, answers, counts);
    std::vector<std::int64_t> next(s.ranks * s.slots);
    for (std::size_t rank = 0; rank < s.ranks; ++rank) {
        std::int64_t sum = 0;
        for (std::size_t slot = 0; slot < s.slots; ++slot) {
            next[rank * s.slots + slot] = sum;
            sum += counts(rank, slot);
        }
        // Beyond its own part of a buffer a rank would write into another's.
        if (sum > static_cast<std::int64_t>(s.max_tokens))
            throw std::invalid_argument("the tokens do not fit the buffers");
    }
    const std::size_t tokens = experts.shape(0), top_k = experts.shape(1);
    struct Copy { std::size_t token, at; };
    std::vector<std::vector<Copy>> copies(s.ranks);
    for (std::size_t t = 0; t < tokens; ++t)
        for (std::size_t k = 0; k < top_k; ++k) {
            if (answers(t, k) < 0) continue;
            const auto place = static_cast<std::size_t>(answers(t, k));
            const std::size_t rank = place / s.slots;
            const auto at = static_cast<std::size_t>(next[place]++);
            copies[rank].push_back({t, at});
            answers(t, k) = static_cast<std::int64_t>(rank * s.max_tokens + at);
        }
    const std::size_t given = s.answer(), sent = s.int8 ? s.hidden + sizeof(float) : given;
    const auto* rows = reinterpret_cast<const Bytes*>(x);
    std::vector<Bytes> quantised(s.int8 ? tokens * sent : 0);
    if (s.int8) {
        for (std::size_t t = 0; t < tokens; ++t) {
            auto* to = reinterpret_cast<std::int8_t*>(quantised.data() + t * sent);
            if (s.bfloat16)
                quantise(reinterpret_cast<const std::uint16_t*>(rows + t * given), s.hidden, to);
            else
                quantise(reinterpret_cast<const float*>(rows + t * given), s.hidden, to);
        }
        rows = quantised.data();
    }
    // Beginning after this rank, so that not all write to the same one first.
    for (std::size_t turn = 1; turn <= s.ranks; ++turn) {
        const std::size_t rank = (s.rank + turn) % s.ranks;
        Bytes* memory = base(bases, rank);
        if (memory == nullptr) continue;
        Bytes* to = s.tokens(memory, s.rank);
        for (const Copy& copy : copies[rank])
            std::memcpy(to + copy.at * s.message(), rows + copy.token * sent, sent);
        Word* flag = s.flag(memory, s.rank, number);
        flag[1] = topic;
        flag[2] = placement;
        for (std::size_t slot = 0; slot < s.slots; ++slot)
            flag[HEADER + slot] = static_cast<Word>(counts(rank, slot));
        raise_flag(flag, number);
    }
}

// Sleeps until all these words hold `number`, at most `seconds`; which of them do not.
std::vector<std::size_t> missing(std::vector<std::uint64_t> words, std::size_t number,
                                 double seconds) {
    using Clock = std::chrono::steady_clock;
    nb::gil_scoped_release release;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    std::vector<std::size_t> late;
    for (std::size_t n = 0; n < words.size(); ++n) {
        Word* flag = reinterpret_cast<Word*>(words[n]);
        for (;;) {
            const Word seen = look(flag);
            if (seen == static_cast<Word>(number)) break;
            const double left = std::chrono::duration<double>(end - Clock::now()).count();
            if (left <= 0) {
                late.push_back(n);
                break;
            }
            sleep_on(flag, seen, left);
        }
    }
    return late;
}

// The first word last, when the others are there; wakes who waits for it.
void post(std::uint64_t address, std::vector<Word> words) {
    Word* flag = reinterpret_cast<Word*>(address);
    for (std::size_t n = 1; n < words.size(); ++n) flag[n] = words[n];
    if (!words.empty()) raise_flag(flag, words[0]);
}

// Where a rank's tokens for each slot begin among those that it sent here.
std::vector<std::size_t> starts_of(const Shape& s, const Table<const std::int64_t>& counts,
                                   const std::vector<std::size_t>& ranks) {
    if (counts.shape(0) != ranks.size() || counts.shape(1) != s.slots)
        throw std::invalid_argument("the counts are not those of these ranks and slots");
    std::vector<std::size_t> starts(ranks.size() * s.slots);
    for (std::size_t n = 0; n < ranks.size(); ++n) {
        std::size_t sum = 0;
        for (std::size_t slot = 0; slot < s.slots; ++slot) {
            starts[n * s.slots + slot] = sum;
            if (counts(n, slot) < 0) throw std::invalid_argument("a count is below zero");
            sum += static_cast<std::size_t>(counts(n, slot));
        }
        if (sum > s.max_tokens || ranks[n] >= s.ranks)
            throw std::invalid_argument("the counts do not fit the buffers");
    }
    return starts;
}

void check_order(const Shape& s, const Row& order) {
    for (std::size_t i = 0; i < order.shape(0); ++i)
        if (order(i) < 0 || static_cast<std::size_t>(order(i)) >= s.slots)
            throw std::invalid_argument("there is no such slot");
}

// Tokens that came, expert by expert; within one, rank by rank.
void gather(std::uintptr_t memory, std::array<std::size_t, 8> sizes,
            std::vector<std::size_t> ranks, Table<const std::int64_t> counts, Row order,
            std::uintptr_t out) {
    const Shape s(sizes);
    const auto starts = starts_of(s, counts, ranks);
    check_order(s, order);
    nb::gil_scoped_release release;
    auto* to = reinterpret_cast<Bytes*>(out);
    for (std::size_t i = 0; i < order.shape(0); ++i) {
        const auto slot = static_cast<std::size_t>(order(i));
        for (std::size_t n = 0; n < ranks.size(); ++n) {
            const auto count = static_cast<std::size_t>(counts(n, slot));
            const Bytes* from = s.tokens(reinterpret_cast<Bytes*>(memory), ranks[n]) +
                                starts[n * s.slots + slot] * s.message();
            if (!s.int8) {
                std::memcpy(to, from, count * s.answer());
                to += count * s.answer();
                continue;
            }
            for (std::size_t row = 0; row < count; ++row, to += s.answer(), from += s.message()) {
                if (s.bfloat16)
                    dequantise(from, s.hidden, reinterpret_cast<std::uint16_t*>(to));
                else
                    dequantise(from, s.hidden, reinterpret_cast<float*>(to));
            }
        }
    }
}

// The answers to what `gather` gave, each written where its token's rank looks for it.
void answer(Bases bases, std::array<std::size_t, 8> sizes, std::size_t number,
            std::vector<std::size_t> ranks, Table<const std::int64_t> counts, Row order,
            std::uintptr_t made) {
    const Shape s(sizes);
    const auto starts = starts_of(s, counts, ranks);
    check_order(s, order);
    nb::gil_scoped_release release;
    const auto* rows = reinterpret_cast<const Bytes*>(made);
    // Where each rank's answers for each slot begin among the rows.
    std::vector<std::size_t> begins(starts.size());
    std::size_t row = 0;
    for (std::size_t i = 0; i < order.shape(0); ++i)
        for (std::size_t n = 0; n < ranks.size(); ++n) {
            const std::size_t at = n * s.slots + static_cast<std::size_t>(order(i));
            begins[at] = row;
            row += static_cast<std::size_t>(counts(n, static_cast<std::size_t>(order(i))));
        }
    for (std::size_t n = 0; n < ranks.size(); ++n) {
        Bytes* memory = base(bases, ranks[n]);
        if (memory == nullptr) continue;
        Bytes* to = s.answers(memory, s.rank);
        for (std::size_t i = 0; i < order.shape(0); ++i) {
            const auto slot = static_cast<std::size_t>(order(i));
            const std::size_t at = n * s.slots + slot;
            std::memcpy(to + starts[at] * s.answer(), rows + begins[at] * s.answer(),
                        static_cast<std::size_t>(counts(n, slot)) * s.answer());
        }
        raise_flag(s.answered(memory, s.rank), number);
    }
}

template <class Element>
void sum_answers(const Shape& s, Bytes* memory, const Table<const std::int64_t>& answers,
                 const Table<const float>& weights, float* out) {
    const auto* made = reinterpret_cast<const Element*>(s.answers(memory, 0));
    for (std::size_t t = 0; t < answers.shape(0); ++t) {
        float* total = out + t * s.hidden;
        std::fill_n(total, s.hidden, 0.0f);
        for (std::size_t k = 0; k < answers.shape(1); ++k) {
            if (answers(t, k) < 0) continue;
            const Element* row = made + static_cast<std::size_t>(answers(t, k)) * s.hidden;
            const float weight = weights(t, k);
            for (std::size_t d = 0; d < s.hidden; ++d) total[d] += widened(row[d]) * weight;
        }
    }
}

// The weighted sums, in the order of a token's experts; what is below zero counts as nothing.
void combine(std::uintptr_t memory, std::array<std::size_t, 8> sizes,
             Table<const std::int64_t> answers, Table<const float> weights, std::uintptr_t out) {
    const Shape s(sizes);
    if (answers.shape(0) != weights.shape(0) || answers.shape(1) != weights.shape(1))
        throw std::invalid_argument("the weights are not those of the answers");
    const auto places = static_cast<std::int64_t>(s.ranks * s.max_tokens);
    for (std::size_t i = 0; i < answers.size(); ++i)
        if (answers.data()[i] >= places) throw std::invalid_argument("there is no such answer");
    nb::gil_scoped_release release;
    auto* mine = reinterpret_cast<Bytes*>(memory);
    auto* to = reinterpret_cast<float*>(out);
    s.bfloat16 ? sum_answers<std::uint16_t>(s, mine, answers, weights, to)
               : sum_answers<float>(s, mine, answers, weights, to);
}

}  // namespace

void bind_exchange(nb::module_& module) {
    module.def("exchange_send", &send, nb::arg("bases"), nb::arg("sizes"), nb::arg("number"),
               nb::arg("topic"), nb::arg("placement"), nb::arg("x"),
               nb::arg("experts").noconvert(), nb::arg("held").noconvert(),
               nb::arg("replicas").noconvert(), nb::arg("answers").noconvert(),
               nb::arg("counts").noconvert(), "Writes tokens to ranks; see native_moves.py.");
    module.def("flags_missing", &missing, nb::arg("words"), nb::arg("number"), nb::arg("seconds"),
               "Waits for words of shared memory; see flags.py.");
    module.def("flags_post", &post, nb::arg("address"), nb::arg("words"),
               "Writes words, the first one last; see flags.py.");
    module.def("exchange_gather", &gather, nb::arg("memory"), nb::arg("sizes"), nb::arg("ranks"),
               nb::arg("counts").noconvert(), nb::arg("order").noconvert(), nb::arg("out"),
               "Packs what came; see native_moves.py.");
    module.def("exchange_answer", &answer, nb::arg("bases"), nb::arg("sizes"), nb::arg("number"),
               nb::arg("ranks"), nb::arg("counts").noconvert(), nb::arg("order").noconvert(),
               nb::arg("made"), "Writes answers to ranks; see native_moves.py.");
    module.def("exchange_combine", &combine, nb::arg("memory"), nb::arg("sizes"),
               nb::arg("answers").noconvert(), nb::arg("weights").noconvert(), nb::arg("out"),
               "Sums answers; see native_moves.py.");
}
