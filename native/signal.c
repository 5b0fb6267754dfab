/*
 * Inside the handlers of SIGBUS, SIGSEGV and SIGTRAP (install.c): which faults are ours (what happens to the others: chain.c), and what a thread is told that
 * touches a page which cannot be had. Runs on the thread that faulted, between two of its instructions, with every asynchronous signal
 * masked; nothing here may allocate, lock what JavaScript locks, or use thread-local storage other than errno, which is put back.
 *
 *   fault ──▶ sent by kill, not an access fault, no region there ──▶ the handler that was there before, or the default action
 *        └──▶ inside our own handler ──▶ report, default action: a core at once
 *        └──▶ a write to a read-only segment ──▶ report, default action
 *        └──▶ pf_page_ensure ──▶ the instruction runs again
 *                            └──▶ inside attempt(): recorded, the one access is redirected (step.c)
 *                            └──▶ unreadable: 'zero'
 *                            └──▶ report, default action, at the original instruction
 */
#include "fault.h"
#include "install.h"
#include "report.h"
#include "service.h"
#include "stack.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ZEROES_LEN 65536
#define SINK_LEN PF_STEP_AREA_MIN /* of each thread; reserved for all, so that nothing has to be allocated in a handler */

static uint8_t *zeroes, *sinks;

/* --- ours ------------------------------------------------------------------------------------------------------------------- */

typedef enum { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH, ACCESS_UNKNOWN } access_t;

/* Unknown counts as a write where writing is allowed: a page too many is dirty. Elsewhere as a read: the page is loaded, and a write faults again. */
static access_t access_of(unsigned which, const ucontext_t *uc) {
#if defined(__x86_64__)
  (void)which;
  uint64_t error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
  return error & 16 ? ACCESS_FETCH : error & 2 ? ACCESS_WRITE : ACCESS_READ;
#elif defined(__aarch64__)
  (void)which;
  const uint8_t *record = uc->uc_mcontext.__reserved;
  for (;;) {
    uint32_t head[2];
    memcpy(head, record, sizeof head);
    if (head[0] == 0x45535201) { /* ESR_MAGIC: the exception syndrome */
      uint64_t esr;
      memcpy(&esr, record + 8, sizeof esr);
      return esr >> 26 == 0x20 ? ACCESS_FETCH : (esr & 64) && !(esr & 256) ? ACCESS_WRITE : ACCESS_READ;
    }
    if (head[0] == 0 || head[1] == 0) {
      return ACCESS_UNKNOWN;
    }
    record += head[1];
  }
#else
  (void)which, (void)uc;
  return ACCESS_UNKNOWN;
#endif
}

const char *pf_signal_access(unsigned which, const ucontext_t *uc) {
  static const char *const names[] = {"a read", "a write", "a jump", "an access"};
  return names[access_of(which, uc)];
}

static bool is_access_fault(unsigned which, const siginfo_t *info) {
  return which == PF_ON_BUS ? info->si_code == BUS_ADRERR : which == PF_ON_SEGV && info->si_code == SEGV_ACCERR;
}

/* The innermost attempt hears of its first failure; what it throws is the outer ones' to hear. */
static void record_attempt(pf_thread_t *thread, const pf_region_t *region, uint64_t page, pf_why_t why) {
  pf_attempt_t *attempt = &thread->attempt[thread->attempts - 1];
  if (!attempt->failed) {
    *attempt = (pf_attempt_t){.failed = true, .region = atomic_load(&region->id), .page = page, .why = why};
  }
}

/* Reasons that lie with the store: the page is FAILED, or was a moment ago. */
static bool is_of_store(pf_why_t why) { return why.code >= PF_E_STORE && why.code <= PF_E_GONE; }

/* What makes no access cannot have faulted: a debugger has laid its breakpoint over the instruction since. */
static bool at_breakpoint(const ucontext_t *uc) {
#if defined(__x86_64__)
  return *(const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP] == 0xcc;
#else
  (void)uc;
  return false;
#endif
}

/* The page cannot be had, or (`refused`) not be written. True: the thread may go on. */
static bool cannot_be_had(pf_region_t *region, uint64_t page, pf_why_t why, bool refused, uintptr_t addr, ucontext_t *uc) {
  pf_exit_wait();
  pf_thread_t *attempting = pf_thread_attempting();
  if (attempting != NULL) {
    uint8_t *sink = region->writable ? sinks + pf_thread_index(attempting) * SINK_LEN : NULL;
    pf_step_areas_t areas = {zeroes, ZEROES_LEN, sink, sink != NULL ? SINK_LEN : 0};
    if (pf_step_redirect(&attempting->step, uc, addr, &areas) == 0) {
      record_attempt(attempting, region, page, why);
      return true;
    }
  }
  if (region->unreadable_zero && !refused && is_of_store(why) && pf_page_zero_failed(region, page)) {
    return true;
  }
  pf_report_unreadable(region, page, why, attempting == NULL ? PF_NOT_IN_ATTEMPT : at_breakpoint(uc) ? PF_ATTEMPT_BREAKPOINT : PF_ATTEMPT_REFUSED);
  return false;
}

/* True: the instruction may run again. */
static bool serve(pf_thread_t *thread, pf_region_t *region, access_t access, uintptr_t addr, ucontext_t *uc) {
  if (access == ACCESS_WRITE && !region->writable) {
    pf_report_write(region, addr);
    return false;
  }
  bool writes = access == ACCESS_WRITE || (access == ACCESS_UNKNOWN && region->writable);
  pf_fault_t fault = {.page = (addr - (uintptr_t)region->base) >> region->page_shift, .wait = {.write = writes}};
  return pf_fault_answer(thread, region, &fault) || cannot_be_had(region, fault.page, fault.why, fault.refused, addr, uc);
}

/* The way to the page is barred: the service thread could not have it for this thread, or for another one. True: the instruction may run again. */
static bool serve_barred(pf_thread_t *thread, pf_region_t *region, access_t access, uintptr_t addr, ucontext_t *uc) {
  if (access == ACCESS_WRITE && !region->writable) {
    pf_report_write(region, addr);
    return false;
  }
  uint64_t page = (addr - (uintptr_t)region->base) >> region->page_shift;
  pf_verdict_t verdict;
  if (pf_verdict_find(region, page, pf_thread_tid(), &verdict)) {
    bool goes_on = cannot_be_had(region, page, verdict.why, verdict.refused, addr, uc);
    if (goes_on) { /* elsewhere, so that it may never come here again; else still barred, so that the instruction ends here when it runs again */
      pf_bar_leave(region, page);
    }
    return goes_on;
  }
  if (!serve(thread, region, access, addr, uc)) { /* another one's verdict: this thread has a try of its own */
    return false;
  }
  if (!pf_page_lift_bar(region, page)) {
    pf_sleep_until(pf_now_ns() + 100000ULL); /* somebody is at it: here again, if it is barred still */
  }
  return true;
}

/* While memory is laid over a part of the segment that is inaccessible. A thread that found it so may come here at any time afterwards, so once for each such change
 * it tries again; if it finds the same then, that was not the reason. */
static bool may_try_again(uint64_t remapped, uintptr_t addr) {
  static _Atomic uint64_t tried[256];
  uint64_t tid = (uint64_t)pf_thread_tid(), attempt = remapped * 0x9E3779B97F4A7C15ULL ^ addr ^ tid << 48;
  bool under_way = (int64_t)(pf_now_ns() - remapped) < 0;
  return under_way || atomic_exchange(&tried[tid % 256], attempt) != attempt;
}

/* Not by us: a page of the object beyond its end, one that somebody else has closed, or the reserve behind the end of a WebAssembly.Memory (then it is V8's
 * trap handler that knows what to do). */
static bool is_closed_by_us(const pf_region_t *region, unsigned which, access_t access, uintptr_t addr) {
  uint64_t remapped = atomic_load(&region->remapped_at);
  if (region->backend == PF_BACKEND_MPROTECT) {
    return which == PF_ON_SEGV;
  }
  if (region->served && which == PF_ON_SEGV && (pf_page_barred(region, (addr - (uintptr_t)region->base) >> region->page_shift) || pf_page_was_barred(region))) {
    return true;
  }
  return which == PF_ON_BUS || (access == ACCESS_WRITE && addr - (uintptr_t)region->base < region->guarded) ||
         (remapped != 0 && may_try_again(remapped, addr));
}

typedef struct {
  pf_thread_t *thread;
  pf_region_t *region;
  access_t access;
  uintptr_t addr;
  ucontext_t *uc;
  bool barred; /* by the service thread */
  bool go_on;
} touch_t;

static void answer_touch(void *data) {
  touch_t *touch = data;
  bool (*answer)(pf_thread_t *, pf_region_t *, access_t, uintptr_t, ucontext_t *) = touch->barred ? serve_barred : serve;
  touch->go_on = answer(touch->thread, touch->region, touch->access, touch->addr, touch->uc);
}

/* True: done with it. */
static bool handle_fault(unsigned which, siginfo_t *info, ucontext_t *uc) {
  if (!is_access_fault(which, info)) {
    return false;
  }
  uintptr_t addr = (uintptr_t)info->si_addr;
  access_t access = access_of(which, uc);
  pf_region_t *region = access == ACCESS_FETCH ? NULL : pf_region_at(addr);
  if (region == NULL) {
    return false;
  }
  if (!is_closed_by_us(region, which, access, addr)) {
    pf_region_leave(region);
    return false;
  }
  pf_thread_t *thread = pf_thread_enter();
  if (thread == NULL) { /* a thousand threads are in here already: the instruction asks again */
    pf_region_leave(region);
    pf_sleep_until(pf_now_ns() + 1000000ULL);
    return true;
  }
  /* Reads of a store and sleeps are points at which pthread_cancel ends a thread, and its signal cannot be masked: the thread would leave with the page. */
  int cancellable;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancellable);
  thread->handlers++;
  touch_t touch = {thread, region, access, addr, uc, region->served && which == PF_ON_SEGV, false};
  if (pf_stack_is_short(uc)) {
    pf_stack_run(pf_thread_index(thread), answer_touch, &touch);
  } else {
    answer_touch(&touch);
  }
  thread->handlers--;
  pf_region_leave(region);
  if (!touch.go_on) {
    pf_step_cancel(&thread->step, uc);
    pf_chain_default(which, info);
  }
  pf_thread_leave(thread);
  pthread_setcancelstate(cancellable, NULL);
  return true;
}

/* True when a handler of ours is on this thread's stack: nothing may be tried any more. */
static bool is_nested(unsigned which, siginfo_t *info) {
  pf_thread_t *thread = info->si_code > 0 ? pf_thread_find() : NULL;
  if (thread == NULL || thread->handlers == 0) {
    return false;
  }
  pf_report_nested((uintptr_t)info->si_addr);
  pf_chain_default(which, info);
  return true;
}

/* A step of a redirected access has been made. */
static bool handle_trap(siginfo_t *info, ucontext_t *uc) {
  pf_thread_t *thread = info->si_code > 0 ? pf_thread_find() : NULL;
  bool ended = thread != NULL && pf_step_finish(&thread->step, uc);
  if (thread != NULL) {
    pf_thread_leave(thread);
  }
  return ended;
}

/* Somebody else's, while an access is redirected: that one gets the registers as they were. */
static void hand_over(ucontext_t *uc) {
  pf_thread_t *thread = pf_thread_find();
  if (thread != NULL) {
    pf_step_cancel(&thread->step, uc);
    pf_thread_leave(thread);
  }
}

/* In the child of a fork nothing of ours goes on. */
static bool handle_forked(unsigned which, siginfo_t *info) {
  if (which == PF_ON_TRAP || info->si_code <= 0 || !pf_forked_touch((uintptr_t)info->si_addr)) {
    return false;
  }
  pf_chain_default(which, info);
  return true;
}

bool pf_signal_handle(unsigned which, siginfo_t *info, void *context) {
  if (pf_forked()) {
    return handle_forked(which, info);
  }
  if (which == PF_ON_TRAP ? handle_trap(info, context) : is_nested(which, info) || handle_fault(which, info, context)) {
    return true;
  }
  hand_over(context);
  return false;
}

/* --- set-up --------------------------------------------------------------------------------------------------------------------- */

static int map_area(uint8_t **area, size_t len, int protection) {
  if (*area != NULL) {
    return 0;
  }
  void *made;
  int err = pf_mem_reserve(len, "pagefault sinks", &made);
  if (err == 0 && (protection & PROT_WRITE) == 0 && (err = pf_mem_protect(made, len, protection)) != 0) {
    pf_mem_unmap(made, len);
  }
  if (err == 0) {
    *area = made;
  }
  return err;
}

int pf_signal_prepare(void) {
  int err = pf_fork_start();
  if (err == 0) {
    err = map_area(&zeroes, ZEROES_LEN, PROT_READ);
  }
  if (err == 0) {
    err = map_area(&sinks, PF_THREADS_MAX * SINK_LEN, PROT_READ | PROT_WRITE);
  }
  return err == 0 ? pf_stack_prepare() : err;
}

/* --- attempts ----------------------------------------------------------------------------------------------------------------- */

static int begin_attempt(void) {
  pf_thread_t *thread = pf_thread_enter();
  if (thread == NULL) {
    return -EAGAIN;
  }
  if (thread->attempts > 0) {
    pf_thread_attempting(); /* what a thread that ended here left behind */
  }
  if (thread->attempts == PF_ATTEMPTS_MAX) {
    return -EAGAIN;
  }
  thread->tid = (pid_t)syscall(SYS_gettid);
  thread->attempt[thread->attempts++].failed = false;
  return 0;
}

/* Signals are masked: the handler of one that came in between might fault, and would give back the place in which no attempt is noted yet, or any longer. */
int pf_attempt_begin(void) {
  sigset_t before;
  int err = pf_install(PF_SIGNALS);
  if (err == 0) {
    pf_mask_signals(&before);
    err = begin_attempt();
    pf_restore_signals(&before);
  }
  return err;
}

static bool end_attempt(pf_failure_t *out) {
  pf_thread_t *thread = pf_thread_attempting();
  if (thread == NULL) {
    return false;
  }
  pf_attempt_t ended = thread->attempt[--thread->attempts];
  pf_thread_leave(thread);
  if (!ended.failed) {
    return false;
  }
  *out = (pf_failure_t){.region = ended.region, .why = ended.why};
  pf_region_t *region = pf_region_by_id(ended.region);
  if (region != NULL) {
    pf_failure_of(region, ended.page, ended.why, out);
    pf_region_leave(region);
  }
  return true;
}

bool pf_attempt_end(pf_failure_t *out) {
  sigset_t before;
  pf_mask_signals(&before); /* for the lock of the failures, too */
  bool failed = end_attempt(out);
  pf_restore_signals(&before);
  return failed;
}
