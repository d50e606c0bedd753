// Threads that wait for work: nobody spins, and the caller takes part.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace silva {

// Runs the items of one job at a time on as many threads as the job asks for. Threads are made when
// first needed and sleep between jobs.
class Workers {
 public:
    using Work = std::function<void(std::size_t)>;

    // Never destroyed, so that no thread outlives it. A forked child has no threads: it makes anew.
    static Workers& shared() {
        static std::mutex guard;
        static Workers* workers = nullptr;
        static pid_t owner = 0;
        std::lock_guard<std::mutex> lock(guard);
        if (workers == nullptr || owner != ::getpid()) {
            workers = new Workers;
            owner = ::getpid();
        }
        return *workers;
    }

    // work(0) ... work(items - 1), each once, in any order; throws what one of them threw.
    void run(std::size_t threads, std::size_t items, const Work& work) {
        if (threads <= 1 || items <= 1) {
            for (std::size_t item = 0; item < items; ++item) work(item);
            return;
        }
        std::lock_guard<std::mutex> one_job(job_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            // Counted only once it runs: a later job would wait for one that could not be made.
            for (; count_ + 1 < threads; ++count_) start(count_);
            work_ = &work;
            items_ = items;
            next_ = 0;
            helpers_ = threads - 1;
            busy_ = helpers_;
            failure_ = nullptr;
            ++turn_;
        }
        wake_.notify_all();
        take();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
        work_ = nullptr;
        if (failure_) std::rethrow_exception(failure_);
    }

 private:
    void start(std::size_t index) {
        std::thread([this, index, turn = turn_] { serve(index, turn); }).detach();
    }

    void serve(std::size_t index, std::size_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return turn_ != seen; });
            seen = turn_;
            if (index >= helpers_) continue;
            lock.unlock();
            take();
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    void take() {
        try {
            for (std::size_t item; (item = next_.fetch_add(1)) < items_;) (*work_)(item);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            failure_ = std::current_exception();
        }
    }

    std::mutex job_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<std::size_t> next_{0};
    const Work* work_ = nullptr;
    std::exception_ptr failure_;
    std::size_t items_ = 0, count_ = 0, helpers_ = 0, busy_ = 0, turn_ = 0;
};

}  // namespace silva
