/*
 * The handlers of SIGBUS, SIGSEGV and SIGTRAP: which faults are ours, what happens to those that are not, and what a thread is told that
 * touches a page which cannot be had. Runs on the thread that faulted, between two of its instructions, with every asynchronous signal
 * masked; nothing here may allocate, lock what JavaScript locks, or use thread-local storage other than errno, which is put back.
 *
 *   fault ──▶ sent by kill, not an access fault, no region there ──▶ the handler that was there before, or the default action
 *        └──▶ inside our own handler ──▶ report, default action: a core at once
 *        └──▶ a write to a read-only segment ──▶ report, default action
 *        └──▶ pf_page_ensure ──▶ the instruction runs again
 *                            └──▶ inside attempt(): recorded, the one load is redirected (step.c)
 *                            └──▶ unreadable: 'zero'
 *                            └──▶ report, default action, at the original instruction
 */
#include "report.h"
#include "thread.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ZEROES_LEN 65536

enum { ON_BUS, ON_SEGV, ON_TRAP, SIGNALS };
static const int numbers[SIGNALS] = {SIGBUS, SIGSEGV, SIGTRAP};

static struct {
  struct sigaction previous[2]; /* who gets what is not ours: one is in use, the other may be written */
  _Atomic unsigned current;
  struct sigaction first; /* who got it before we came: the end of every chain */
  bool installed;
} chain[SIGNALS];

static pf_lock_t install_lock;   /* not in a handler */
static _Atomic unsigned wanted; /* how many of the handlers are needed so far */
static _Atomic uint64_t reinstalls, forwarded;
static _Atomic uint32_t *alive; /* reads 0 in a forked child */
static uint8_t *zeroes;
static _Atomic uint64_t exit_at; /* 0: not exiting */
static _Atomic int exit_code;

/* --- exit ---------------------------------------------------------------------------------------------------------------- */

void pf_exiting(int code) {
  atomic_store(&exit_code, code);
  uint64_t none = 0;
  atomic_compare_exchange_strong(&exit_at, &none, pf_now_ns());
}

bool pf_exit_begun(void) { return atomic_load_explicit(&exit_at, memory_order_relaxed) != 0; }

/* The main thread is the one that exits: while it waits its Workers still run, so it is served or meets its deadline. */
void pf_exit_check(void) {
  if (pf_now_ns() > atomic_load(&exit_at) + PF_EXIT_GRACE_NS && syscall(SYS_gettid) != getpid()) {
    _exit(atomic_load(&exit_code));
  }
}

/* --- what is not ours ------------------------------------------------------------------------------------------------------ */

static void set_default(int number) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(number, &standard, NULL);
}

static void default_action(int number, siginfo_t *info) {
  set_default(number);
  if (info->si_code > 0 && number != SIGTRAP) {
    return; /* the instruction runs again and faults again: the core shows the original access */
  }
  /* Blocked until the handler returns: then it is delivered where it came first. */
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number);
  pthread_sigmask(SIG_BLOCK, &one, NULL);
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, info);
}

static bool has_handler(const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) || (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

/* As the kernel would have called it: with the mask it asked for. */
static void call(const struct sigaction *action, int number, siginfo_t *info, void *context) {
  sigset_t mask = ((ucontext_t *)context)->uc_sigmask;
  for (int other = 1; other < NSIG; other++) {
    if (sigismember(&action->sa_mask, other) == 1) {
      sigaddset(&mask, other);
    }
  }
  if (!(action->sa_flags & SA_NODEFER)) {
    sigaddset(&mask, number);
  }
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  if (action->sa_flags & SA_SIGINFO) {
    action->sa_sigaction(number, info, context);
  } else {
    action->sa_handler(number);
  }
}

static void set_previous(unsigned which, const struct sigaction *action) {
  unsigned other = atomic_load(&chain[which].current) ^ 1;
  chain[which].previous[other] = *action;
  atomic_store(&chain[which].current, other);
}

static void forward(unsigned which, siginfo_t *info, ucontext_t *uc) {
  /* A handler that was put over ours and saved it as its previous one sends the signal back, with the context that it got from us: then it
   * goes to the very first. The mark is in a member that the kernel neither reads nor leaves set, so that a handler which never returned
   * (siglongjmp) leaves none behind. */
  ucontext_t *const mark = (ucontext_t *)&chain, *link = uc->uc_link;
  struct sigaction action = link == mark ? chain[which].first : chain[which].previous[atomic_load(&chain[which].current)];
  atomic_fetch_add_explicit(&forwarded, 1, memory_order_relaxed);
  pf_thread_t *thread = pf_thread_find();
  if (thread != NULL) {
    pf_step_cancel(&thread->step, uc);
    pf_thread_leave(thread);
  }
  if (has_handler(&action)) {
    if (action.sa_flags & (int)SA_RESETHAND) {
      set_previous(which, &(struct sigaction){.sa_handler = SIG_DFL});
    }
    uc->uc_link = mark;
    call(&action, numbers[which], info, uc);
    uc->uc_link = link;
  } else if (info->si_code > 0 || action.sa_handler == SIG_DFL) {
    default_action(numbers[which], info); /* an ignored fault is not ignored by the kernel either */
  }
}

/* --- ours ------------------------------------------------------------------------------------------------------------------- */

typedef enum { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH } access_t;

/* Unknown counts as a read: then the page is loaded, and a write that is not allowed faults again. */
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
      return ACCESS_READ;
    }
    record += head[1];
  }
#else
  (void)uc;
  return ACCESS_READ;
#endif
}

static bool is_access_fault(unsigned which, const siginfo_t *info) {
  return which == ON_BUS ? info->si_code == BUS_ADRERR : which == ON_SEGV && info->si_code == SEGV_ACCERR;
}

static void note_latency(pf_region_t *region, uint64_t started) {
  uint64_t took = pf_now_ns() - started;
  unsigned bucket = took == 0 ? 0 : 63 - (unsigned)__builtin_clzll(took);
  bucket = bucket < PF_HISTOGRAM ? bucket : PF_HISTOGRAM - 1;
  atomic_fetch_add_explicit(&region->counters.histogram[bucket], 1, memory_order_relaxed);
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

/* The page cannot be had. True: the thread may go on. */
static bool cannot_be_had(pf_region_t *region, uint64_t page, pf_why_t why, uintptr_t addr, ucontext_t *uc) {
  if (pf_exit_begun()) {
    pf_sleep_until(atomic_load(&exit_at) + PF_EXIT_GRACE_NS);
    _exit(atomic_load(&exit_code));
  }
  pf_thread_t *attempting = pf_thread_attempting();
  if (attempting != NULL && pf_step_redirect(&attempting->step, uc, addr, zeroes, ZEROES_LEN) == 0) {
    record_attempt(attempting, region, page, why);
    return true;
  }
  if (region->unreadable_zero && is_of_store(why) && pf_page_zero_failed(region, page)) {
    return true;
  }
  pf_report_unreadable(region, page, why, attempting != NULL);
  return false;
}

/* True: the instruction may run again. */
static bool serve(pf_region_t *region, access_t access, uintptr_t addr, ucontext_t *uc) {
  if (access == ACCESS_WRITE) {
    pf_report_write(region, addr);
    return false;
  }
  uint64_t started = pf_now_ns();
  uint64_t page = (addr - (uintptr_t)region->base) >> region->page_shift;
  atomic_fetch_add_explicit(&region->counters.faults, 1, memory_order_relaxed);
  bool open = atomic_load(&region->phase) == PF_PHASE_OPEN;
  if (open && (atomic_load(&region->states[page]) & PF_STATE) == PF_PRESENT) {
    pf_page_reopen(region, page); /* somebody was faster, or closed it again */
    return true;
  }
  pf_wait_t wait = {.deadline_ns = started + region->timeout_ns};
  pf_why_t why;
  bool there = pf_page_ensure(region, page, &wait, &why);
  note_latency(region, started);
  return there || cannot_be_had(region, page, why, addr, uc);
}

/* True: done with it. */
static bool handle_fault(unsigned which, siginfo_t *info, ucontext_t *uc) {
  if (!is_access_fault(which, info) || atomic_load_explicit(alive, memory_order_relaxed) == 0) {
    return false;
  }
  uintptr_t addr = (uintptr_t)info->si_addr;
  access_t access = access_of(which, uc);
  pf_region_t *region = access == ACCESS_FETCH ? NULL : pf_region_at(addr);
  if (region == NULL) {
    return false;
  }
  /* Not by us: a page of the object beyond its end, or one that somebody else has closed. */
  if (region->backend == PF_BACKEND_MPROTECT ? which == ON_BUS : which == ON_SEGV && access != ACCESS_WRITE) {
    pf_region_leave(region);
    return false;
  }
  pf_thread_t *thread = pf_thread_enter();
  if (thread == NULL) { /* a thousand threads are in here already: the instruction asks again */
    pf_region_leave(region);
    pf_sleep_until(pf_now_ns() + 1000000ULL);
    return true;
  }
  thread->handlers++;
  bool go_on = serve(region, access, addr, uc);
  thread->handlers--;
  pf_region_leave(region);
  if (!go_on) {
    pf_step_cancel(&thread->step, uc);
    default_action(numbers[which], info);
  }
  pf_thread_leave(thread);
  return true;
}

/* True when a handler of ours is on this thread's stack: nothing may be tried any more. */
static bool is_nested(unsigned which, siginfo_t *info) {
  pf_thread_t *thread = info->si_code > 0 ? pf_thread_find() : NULL;
  if (thread == NULL || thread->handlers == 0) {
    return false;
  }
  pf_report_nested((uintptr_t)info->si_addr);
  default_action(numbers[which], info);
  return true;
}

/* A step of a redirected load has been made. */
static bool handle_trap(siginfo_t *info, ucontext_t *uc) {
  pf_thread_t *thread = info->si_code > 0 ? pf_thread_find() : NULL;
  bool ended = thread != NULL && pf_step_finish(&thread->step, uc);
  if (thread != NULL) {
    pf_thread_leave(thread);
  }
  return ended;
}

static bool handle_own(unsigned which, siginfo_t *info, void *context) {
  return which == ON_TRAP ? handle_trap(info, context) : is_nested(which, info) || handle_fault(which, info, context);
}

/* --- several copies of the library --------------------------------------------------------------------------------------- */

/* The handlers of one copy serve all: a copy that finds those of another installed attaches to them instead of putting its own on top. What it
 * looks for is this symbol in the object that the installed handler lies in; the layout is fixed for all versions. */
#define COPIES 16

typedef bool (*own_t)(unsigned which, siginfo_t *info, void *context);

struct pagefault_handlers {
  uint32_t version;
  bool (*attach)(own_t own);
  int (*check)(unsigned count);
};

static _Atomic(own_t) attached[COPIES];
static const struct pagefault_handlers *host; /* the copy that serves us, if it is another */

static bool attach(own_t own) {
  for (size_t i = 0; i < COPIES; i++) {
    own_t none = NULL;
    if (atomic_compare_exchange_strong(&attached[i], &none, own) || none == own) {
      return true;
    }
  }
  return false;
}

static bool handle_attached(unsigned which, siginfo_t *info, void *context) {
  for (size_t i = 0; i < COPIES; i++) {
    own_t own = atomic_load_explicit(&attached[i], memory_order_acquire);
    if (own == NULL) {
      return false;
    }
    if (own(which, info, context)) {
      return true;
    }
  }
  return false;
}

static void handle(unsigned which, siginfo_t *info, void *context) {
  int before = errno;
  if (!handle_own(which, info, context) && !handle_attached(which, info, context)) {
    forward(which, info, context);
  }
  errno = before;
}

static void on_bus(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(ON_BUS, info, context);
}

static void on_segv(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(ON_SEGV, info, context);
}

static void on_trap(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(ON_TRAP, info, context);
}

/* --- installing -------------------------------------------------------------------------------------------------------------- */

static void (*const handlers[SIGNALS])(int, siginfo_t *, void *) = {on_bus, on_segv, on_trap};

static int check_all(unsigned count);

__attribute__((visibility("default"))) const struct pagefault_handlers pagefault_handlers_v1 = {1, attach, check_all};

/* The copy of this library that the handler belongs to, or NULL. */
static const struct pagefault_handlers *copy_behind(const struct sigaction *action) {
  Dl_info object;
  void *code;
  memcpy(&code, &action->sa_sigaction, sizeof code);
  if (!(action->sa_flags & SA_SIGINFO) || dladdr(code, &object) == 0 || object.dli_fname == NULL) {
    return NULL;
  }
  void *library = dlopen(object.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == NULL) {
    return NULL;
  }
  const struct pagefault_handlers *found = dlsym(library, "pagefault_handlers_v1");
  dlclose(library);
  return found != NULL && found != &pagefault_handlers_v1 && found->version >= 1 ? found : NULL;
}

/* install_lock held. True when another copy serves us from here on. */
static bool join_other_copy(void) {
  struct sigaction now;
  const struct pagefault_handlers *found = sigaction(SIGSEGV, NULL, &now) == 0 ? copy_behind(&now) : NULL;
  if (found != NULL && found->attach(handle_own)) {
    host = found;
  }
  return host != NULL;
}

/* install_lock held. Puts ours on top; 1 when another one was there although we had been installed. */
static int install(unsigned which) {
  struct sigaction now;
  if (sigaction(numbers[which], NULL, &now) != 0) {
    return -errno;
  }
  if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handlers[which]) {
    return 0;
  }
  bool replaced = chain[which].installed;
  set_previous(which, &now); /* before ours can be called */
  if (!replaced) {
    chain[which].first = now;
  }
  struct sigaction ours = {.sa_sigaction = handlers[which], .sa_flags = (int)(SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART)};
  sigfillset(&ours.sa_mask);
  static const int synchronous[] = {SIGSEGV, SIGBUS, SIGTRAP, SIGFPE, SIGILL, SIGABRT};
  for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++) {
    sigdelset(&ours.sa_mask, synchronous[i]);
  }
  if (sigaction(numbers[which], &ours, NULL) != 0) {
    return -errno;
  }
  chain[which].installed = true;
  return replaced;
}

static int prepare(void) {
  if (alive != NULL) {
    return 0;
  }
  void *area = mmap(NULL, ZEROES_LEN, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) {
    return -errno;
  }
  zeroes = area;
  _Atomic uint32_t *word;
  int err = pf_mem_wiped_on_fork(&word);
  if (err == 0) {
    atomic_store(word, 1);
    alive = word;
  }
  return err;
}

/* install_lock held. SIGTRAP only from the first attempt on: debuggers and others use it. */
static int install_all(unsigned count) {
  int err = prepare();
  if (err < 0) {
    return err;
  }
  if (host != NULL || (!chain[ON_SEGV].installed && join_other_copy())) {
    return host->check(count);
  }
  for (unsigned which = 0; err >= 0 && which < count; which++) {
    err = install(which);
    if (err > 0) {
      atomic_fetch_add(&reinstalls, 1);
    }
  }
  return err < 0 ? err : 0;
}

static int install_locked(unsigned count) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&install_lock);
  int err = install_all(count > wanted ? count : wanted);
  if (err == 0 && count > wanted) {
    wanted = count;
  }
  pf_unlock(&install_lock);
  pf_restore_signals(&before);
  return err;
}

/* For other copies, which call it with their own lock held. */
static int check_all(unsigned count) { return install_locked(count < SIGNALS ? count : SIGNALS); }

int pf_signal_start(void) { return install_locked(ON_TRAP); }

int pf_signal_check(void) { return wanted == 0 ? 0 : install_locked(0); }

uint64_t pf_signal_reinstalls(void) { return atomic_load(&reinstalls); }
uint64_t pf_signal_forwarded(void) { return atomic_load(&forwarded); }

/* --- attempts ----------------------------------------------------------------------------------------------------------------- */

int pf_attempt_begin(void) {
  int err = atomic_load(&wanted) == SIGNALS ? 0 : install_locked(SIGNALS);
  if (err != 0) {
    return err;
  }
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

bool pf_attempt_end(pf_failure_t *out) {
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
  sigset_t before;
  pf_mask_signals(&before); /* for the lock of the failures */
  pf_region_t *region = pf_region_by_id(ended.region);
  if (region != NULL) {
    if (!pf_failure_find(ended.region, ended.page << region->page_shift, out) || out->why.code != ended.why.code) {
      pf_failure_describe(region, ended.page, ended.why, out);
    }
    pf_region_leave(region);
  }
  pf_restore_signals(&before);
  return true;
}
