/*
 * A fault, whoever answers it: the thread that touched the page, in its signal handler (signal.c), or the service thread on its behalf (service.c). Nothing here
 * knows how the fault was heard of, or what a thread is told whose page cannot be had.
 */
#include "fault.h"

static void note_latency(pf_region_t *region, uint64_t started) {
  uint64_t took = pf_now_ns() - started;
  unsigned bucket = took == 0 ? 0 : 63 - (unsigned)__builtin_clzll(took);
  bucket = bucket < PF_HISTOGRAM ? bucket : PF_HISTOGRAM - 1;
  atomic_fetch_add_explicit(&region->counters.histogram[bucket], 1, memory_order_relaxed);
}

static bool bring(pf_region_t *region, pf_fault_t *fault) {
  bool open = atomic_load(&region->phase) == PF_PHASE_OPEN;
  if (!open || (atomic_load(&region->states[fault->page]) & PF_STATE) != PF_PRESENT) {
    return pf_page_ensure(region, fault->page, &fault->wait, &fault->why);
  }
  if (fault->wait.write && pf_track_of(region, fault->page) == PF_TRACK_FAULT) {
    fault->refused = !pf_page_admit_write(region, fault->page, &fault->wait, &fault->why);
  } else { /* somebody was faster, or closed it again */
    fault->seen = true;
    fault->refused = !pf_page_reopen(region, fault->page, &fault->wait, &fault->why);
  }
  return !fault->refused;
}

bool pf_fault_answer(pf_thread_t *thread, pf_region_t *region, pf_fault_t *fault) {
  int tid = fault->wait.tid != 0 ? fault->wait.tid : pf_thread_tid();
  uint64_t started = pf_thread_serving(thread, atomic_load_explicit(&region->id, memory_order_relaxed), fault->page, tid);
  fault->wait.deadline_ns = started + region->timeout_ns;
  fault->wait.doing = &thread->doing;
  fault->refused = fault->seen = false;
  atomic_fetch_add_explicit(&region->counters.faults, 1, memory_order_relaxed);
  pf_region_reaches(region, fault->page + 1);
  bool there = bring(region, fault);
  pf_thread_served(thread);
  if (!there || !fault->seen) {
    note_latency(region, started);
  }
  return there;
}
