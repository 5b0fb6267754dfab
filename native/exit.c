/*
 * The end of the process while threads wait for pages. A runtime that exits stops its threads and joins them, and a thread that waits for a page cannot be
 * stopped: it is in the middle of an instruction, for which there are no bytes but those of the store. So once the main thread does nothing any more but wait
 * to join, and has done so for a moment (the grace), the process is ended with the code that it exits with.
 *
 * The code comes from JavaScript, from a listener of 'exit' on the main thread. Where that has no segment there is no listener; then it shows in what the main thread waits
 * for that it joins a Worker, which a runtime does only when it exits. The Worker's thread, which is stopped at a page, ends by itself then, alone, and the exit takes its course.
 *
 * Who looks is the guard's thread: the waiting thread may be stuck in a read of its store. The waiters look only where the guard is missing. While the main
 * thread still runs listeners of 'exit' it is left alone, and its own faults are answered as ever: its Workers run until it joins them.
 */
#include "task.h"
#include "thread.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_NS 10000000ULL
#define LATE_NS 1000000000ULL /* the guard would have ended it by then */

static _Atomic uint64_t begun_at; /* 0: not exiting */
static _Atomic int code;
static _Atomic int joined; /* a thread that the main thread waits for, while nobody has said what the code is */
static _Atomic uint64_t through_since; /* the main thread waits; 0: it did not when it was last looked at */
static _Atomic unsigned stuck; /* threads whose page cannot be had, and that wait for the end */
static void (*_Atomic last_words)(pf_region_t *region);

void pf_exiting(int with) {
  atomic_store(&code, with);
  uint64_t none = 0;
  atomic_compare_exchange_strong(&begun_at, &none, pf_now_ns());
  pf_guard_kick();
}

void pf_exit_tell(void (*tell)(pf_region_t *region)) { atomic_store(&last_words, tell); }

static bool is_told(void) { return atomic_load_explicit(&begun_at, memory_order_relaxed) != 0; }

bool pf_exit_begun(void) { return is_told() || atomic_load_explicit(&joined, memory_order_relaxed) != 0; }

static bool is_main(void) { return syscall(SYS_gettid) == getpid(); }

/* What the main thread does in the kernel, as /proc tells: "202 0x7f… 0x109 0x2f1 …", "running". False: it does not sleep on a futex. True where it does not say.
 * *whom: the number of the thread that it joins, with glibc, where the kernel wakes whoever joins: that takes a futex that processes could share, so that no lock
 * and no condition variable is taken for it, whatever number it holds. 0: it waits for something else. -1: it does not say. */
static bool main_sleeps(long *whom) {
  char text[128], *at = text;
  *whom = -1;
  if (pf_task_read(getpid(), "syscall", text, sizeof text) < 0) {
    return true;
  }
  if (strtol(at, &at, 10) != SYS_futex || at == text) {
    return false;
  }
  strtoul(at, &at, 16); /* where it is */
  bool private = strtoul(at, &at, 16) & FUTEX_PRIVATE_FLAG;
  long value = (long)(int)strtoul(at, &at, 16);
  *whom = private || value == getpid() ? 0 : value;
  return true;
}

/* The main thread waits for another one to end. Sleeping on a futex alone says less: on a busy machine a garbage collection may take as long. */
static bool main_joins(void) {
  long whom;
  if (!main_sleeps(&whom)) {
    return false;
  }
#if defined(__GLIBC__)
  return whom == -1 || (whom > 0 && !pf_task_has_ended((pid_t)whom));
#else
  return true; /* musl sleeps on a word that says nothing */
#endif
}

static bool main_joins_thread(int tid) {
  long whom;
  return main_sleeps(&whom) && whom == tid;
}

/* Other threads that wait for a page, and would be joined. *main_waits: the main thread is one that waits. */
static bool anybody_waits(bool *main_waits) {
  bool others = atomic_load(&stuck) > 0;
  *main_waits = false;
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    pf_serving_t serving;
    if (pf_thread_waits(i, &serving)) {
      *main_waits = *main_waits || serving.tid == getpid();
      others = others || (serving.tid != getpid() && !pf_loader_is(serving.tid));
    }
  }
  return others;
}

/* True: nothing is left to do but to end. */
static bool is_over(void) {
  bool main_waits;
  uint64_t now = pf_now_ns(), since = 0;
  if (!anybody_waits(&main_waits) || main_waits || !main_joins()) {
    atomic_store(&through_since, 0);
    return false;
  }
  return !atomic_compare_exchange_strong(&through_since, &since, now) && now >= since + PF_EXIT_GRACE_NS;
}

static void tell_all(void) {
  void (*tell)(pf_region_t *region) = atomic_load(&last_words);
  uintptr_t at = 0;
  for (pf_region_t *region; tell != NULL && (region = pf_region_next(at)) != NULL; pf_region_leave(region)) {
    at = (uintptr_t)region->base + region->length;
    tell(region);
  }
}

/* It has waited since it was seen. Of a page that is there a service thread may only not have noted yet that its thread goes on. */
static bool still_waits(size_t index, const pf_serving_t *seen) {
  pf_serving_t now;
  bool same = pf_thread_waits(index, &now) && now.since_ns == seen->since_ns && now.tid == seen->tid;
  pf_region_t *region = same ? pf_region_by_id(now.region) : NULL;
  bool missing = region != NULL && (atomic_load(&region->states[now.page]) & PF_STATE) != PF_PRESENT;
  if (region != NULL) {
    pf_region_leave(region);
  }
  return missing;
}

/* Nobody has said that the process exits. A thread with JavaScript that waits for a page and is joined by the main thread says it: one that waited before and after,
 * for it may also have had its page, and have ended by itself. */
static void look_for_join(void) {
  bool known = false;
  for (size_t i = 0; i < PF_THREADS_MAX && !known; i++) {
    pf_serving_t serving;
    known = pf_thread_waits(i, &serving) && serving.tid != getpid() && pf_watchdog_runs_javascript(serving.tid) && main_joins_thread(serving.tid) &&
            still_waits(i, &serving);
    if (known && atomic_exchange(&joined, serving.tid) != serving.tid) {
      tell_all();
    }
  }
}

uint64_t pf_exit_look(void) {
  if (!is_told()) {
    look_for_join();
    return atomic_load(&joined) != 0 ? pf_now_ns() + LOOK_NS : UINT64_MAX;
  }
  if (is_over()) {
    tell_all();
    _exit(atomic_load(&code));
  }
  return pf_now_ns() + LOOK_NS;
}

void pf_exit_check(void) {
  if (!is_told() && atomic_load(&joined) == syscall(SYS_gettid)) {
    syscall(SYS_exit, 0);
  }
  if (is_told() && pf_now_ns() > atomic_load(&begun_at) + LATE_NS && !is_main() && is_over()) {
    _exit(atomic_load(&code));
  }
}

bool pf_exit_joins(int tid) { return tid != 0 && !is_told() && atomic_load_explicit(&joined, memory_order_relaxed) == tid; }

bool pf_exit_wait(void) {
  if (!pf_exit_begun() || is_main()) {
    return false;
  }
  atomic_fetch_add(&stuck, 1);
  for (;;) {
    pf_sleep_until(pf_now_ns() + LOOK_NS);
    pf_exit_check();
    if (!is_told() && main_joins_thread((int)syscall(SYS_gettid))) { /* after the first: the guard looks only for those that wait for a page */
      syscall(SYS_exit, 0);
    }
  }
}
