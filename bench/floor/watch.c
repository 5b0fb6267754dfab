/*
 * What a fault notes for the watchdog, the events and the statistics, alone: the library's own table of threads, compiled in here, and the counters and the second
 * look at the clock that a fault of a C store makes. Without them the handler would still look for its thread, and at the clock once, for its deadline.
 */
#include "floor.h"

#include "thread.h"

#define CALLS 2000
#define ROUNDS 500

static pf_counters_t counters;

static void bare(void) {
  for (uint64_t i = 0; i < CALLS; i++) {
    pf_thread_t *thread = pf_thread_enter();
    thread->handlers++;
    uint64_t now = pf_now_ns();
    __asm__ volatile("" : : "r"(now) : "memory");
    thread->handlers--;
    pf_thread_leave(thread);
  }
}

static void count(uint64_t started) {
  uint64_t took = pf_now_ns() - started;
  unsigned bucket = took == 0 ? 0 : 63 - (unsigned)__builtin_clzll(took);
  atomic_fetch_add_explicit(&counters.histogram[bucket < PF_HISTOGRAM ? bucket : PF_HISTOGRAM - 1], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters.faults, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters.loads, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters.store_reads, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters.bytes_read, 4096, memory_order_relaxed);
}

static void watched(void) {
  for (uint64_t i = 0; i < CALLS; i++) {
    pf_thread_t *thread = pf_thread_enter();
    thread->handlers++;
    uint64_t started = pf_thread_serving(thread, 5, i, pf_thread_tid());
    atomic_store_explicit(&thread->doing, PF_DOES_READ, memory_order_relaxed);
    pf_thread_served(thread);
    count(started);
    thread->handlers--;
    pf_thread_leave(thread);
  }
}

/* Nanoseconds a fault: the least of many short rounds, which nothing has interrupted. */
double floor_watch_cost(void) {
  void (*const sides[])(void) = {bare, watched};
  uint64_t least[] = {UINT64_MAX, UINT64_MAX};
  for (int round = 0; round < ROUNDS; round++) {
    for (int side = 0; side < 2; side++) {
      uint64_t start = pf_now_ns();
      sides[side]();
      uint64_t took = pf_now_ns() - start;
      least[side] = took < least[side] ? took : least[side];
    }
  }
  return ((double)least[1] - (double)least[0]) / CALLS;
}
