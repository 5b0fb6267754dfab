/*
 * Our signal handlers in their place: installed once a process, looked after from then on, shared by several copies of this library, and the first lines of each.
 * Installing runs on any thread outside handlers, under `lock`, with signals masked; what needs the loader's lock (dladdr, dlopen) comes after ours are in
 * place, because a thread that faults while it holds that lock may be waiting for just that.
 *
 *   nothing of ours ──▶ the handlers of another copy are there ──▶ guest: they serve us, and are looked after by that copy
 *                  └──▶ ours on top of what was there ──▶ found replaced ──▶ by another copy ──▶ guest
 *                             ▲                                        └──▶ by anybody else ──┐
 *                             └────────── counted; theirs is the next one after ours ◀─────────┘
 */
#include "install.h"
#include "crash.h"
#include "engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COPIES 16
#define NEAR 2048 /* bytes of stack between a handler and the frame that the kernel made for it */
#define CODES_FROM (-128) /* si_code: the kernel's lie from SI_ASYNCNL, -60, to SI_KERNEL, 128 */
#define CODES_TO 255
#define ADDRESS_BITS 56 /* that a program can have, with five levels of page tables, too */

static pf_lock_t lock;          /* not in a handler */
static _Atomic unsigned wanted; /* how many of the handlers are needed so far */
static _Atomic bool installed[PF_SIGNALS];
static _Atomic uint64_t reinstalls;

/* --- several copies of the library --------------------------------------------------------------------------------------- */

/* The handlers of one copy serve all: a copy that finds those of another installed becomes its guest instead of putting its own on top. What it looks for is
 * this symbol in the object that the handler lies in. The layout is fixed for all versions; later ones add members at the end. */
typedef bool (*own_t)(unsigned which, siginfo_t *info, void *context);

struct pagefault_handlers {
  uint32_t version;
  bool (*attach)(own_t own);
  int (*check)(unsigned count);
  /* from version 2 on */
  uint64_t (*reinstalls)(void);
  uint64_t (*forwarded)(void);
};

enum { ALONE, JOINING, GUEST }; /* only who is ALONE takes guests, so that no two are each other's */

static _Atomic int role;
static _Atomic(own_t) attached[COPIES];
static _Atomic(const struct pagefault_handlers *) host; /* the copy that serves us, if it is another */

/* Its code must stay, whatever its owner unloads. The loader's lock is taken. */
static void keep_loaded(const void *code) {
  Dl_info object;
  if (dladdr(code, &object) != 0 && object.dli_fname != NULL) {
    dlopen(object.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

static bool attach(own_t own) {
  void *code;
  memcpy(&code, &own, sizeof code);
  if (atomic_load(&role) != ALONE) {
    return false;
  }
  keep_loaded(code);
  for (size_t i = 0; i < COPIES; i++) {
    own_t none = NULL;
    if (atomic_compare_exchange_strong(&attached[i], &none, own) || none == own) {
      return true;
    }
  }
  return false;
}

/* Ours, and those of our guests. */
static bool handle_all(unsigned which, siginfo_t *info, void *context) {
  if (pf_signal_handle(which, info, context)) {
    return true;
  }
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

/* --- the handlers -------------------------------------------------------------------------------------------------------- */

/* The kernel looks at the pointer before it looks at what is to be done with it. */
static bool is_readable(const void *at) { return syscall(SYS_rt_sigprocmask, ~0, at, NULL, 8) != -1 || errno != EFAULT; }

/* Registers of a program: no bits where the architecture has none, addresses that a program can have. Code, text and what a stack once held are not like that. */
static bool is_machine_state(const ucontext_t *uc) {
#if defined(__x86_64__)
  const greg_t *registers = uc->uc_mcontext.gregs;
  uint64_t sp = (uint64_t)registers[REG_RSP], pc = (uint64_t)registers[REG_RIP];
  return sp != 0 && (sp | pc) >> ADDRESS_BITS == 0 && (uint64_t)registers[REG_EFL] >> 32 == 0;
#elif defined(__aarch64__)
  const mcontext_t *state = &uc->uc_mcontext;
  return state->sp != 0 && (state->sp | state->pc) >> ADDRESS_BITS == 0 && state->pstate >> 32 == 0 && (state->pstate & 31) == 0;
#else
  return true;
#endif
}

/*
 * False: somebody who was told only the number (signal(), no SA_SIGINFO) handed it on to us, or installed our handler in that way; then the arguments are anything: the
 * kernel fills in no siginfo for such a handler, so that `info` may well lead to where it would be and hold half of an earlier one, and `context` is what that handler
 * last had in the register. The thread goes on and faults again, until ours is in its place.
 */
static bool is_told(unsigned which, const siginfo_t *info, const ucontext_t *uc) {
  uintptr_t here = (uintptr_t)__builtin_frame_address(0);
  if (info == NULL || uc == NULL || (uintptr_t)info % _Alignof(siginfo_t) != 0 || (uintptr_t)uc % _Alignof(ucontext_t) != 0) {
    return false;
  }
  if (((uintptr_t)info - here > NEAR || (uintptr_t)uc - here > NEAR) &&
      !(is_readable(info) && is_readable((const char *)(info + 1) - 8) && is_readable(uc) && is_readable(&uc->uc_sigmask))) {
    return false;
  }
  if (info->si_signo != pf_number_of(which) || info->si_code < CODES_FROM || info->si_code > CODES_TO || !is_machine_state(uc)) {
    return false;
  }
#if defined(__x86_64__)
  const greg_t *registers = uc->uc_mcontext.gregs;
  if (which != PF_ON_TRAP && (info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR) && registers[REG_TRAPNO] == 14) {
    return (uintptr_t)info->si_addr == (uintptr_t)registers[REG_CR2]; /* else it was left on the stack by an earlier one */
  }
#endif
  return true;
}

static void handle(unsigned which, siginfo_t *info, void *context) {
  int before = errno;
  pf_crash_wait();
  if (is_told(which, info, context) && !handle_all(which, info, context)) {
    pf_chain_forward(which, info, context);
  }
  errno = before;
}

static void on_bus(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(PF_ON_BUS, info, context);
}

static void on_segv(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(PF_ON_SEGV, info, context);
}

static void on_trap(int number, siginfo_t *info, void *context) {
  (void)number;
  handle(PF_ON_TRAP, info, context);
}

static void (*const handlers[PF_SIGNALS])(int, siginfo_t *, void *) = {on_bus, on_segv, on_trap};

/* --- looking for other copies ---------------------------------------------------------------------------------------------- */

static int check_all(unsigned count);

__attribute__((visibility("default"))) const struct pagefault_handlers pagefault_handlers_v1 = {
    2, attach, check_all, pf_signal_reinstalls, pf_signal_forwarded};

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

/* `lock` held. True when the copy that the handler belongs to serves us from here on. */
static bool become_guest(const struct sigaction *action) {
  const struct pagefault_handlers *found = copy_behind(action);
  int alone = ALONE;
  if (found == NULL || !atomic_compare_exchange_strong(&role, &alone, JOINING)) {
    return false;
  }
  bool joined = found->attach(handle_all);
  if (joined) {
    keep_loaded(found);
    atomic_store(&host, found);
  }
  atomic_store(&role, joined ? GUEST : ALONE);
  return joined;
}

/* --- installing -------------------------------------------------------------------------------------------------------------- */

static bool has_our_code(unsigned which, const struct sigaction *action) { return action->sa_sigaction == handlers[which]; }

static struct sigaction make_ours(unsigned which) {
  struct sigaction ours = {.sa_sigaction = handlers[which], .sa_flags = (int)(SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART)};
  sigfillset(&ours.sa_mask);
  static const int synchronous[] = {SIGSEGV, SIGBUS, SIGTRAP, SIGFPE, SIGILL, SIGABRT};
  for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++) {
    sigdelset(&ours.sa_mask, synchronous[i]);
  }
  return ours;
}

bool pf_install_action(unsigned which, struct sigaction *out) {
  *out = make_ours(which);
  return installed[which] && atomic_load(&host) == NULL;
}

/* Ours, and as we installed it: signal() keeps the function and forgets the rest. */
static bool is_intact(unsigned which, const struct sigaction *action, const struct sigaction *ours) {
  return has_our_code(which, action) && (action->sa_flags & ours->sa_flags) == ours->sa_flags && !(action->sa_flags & (int)SA_RESETHAND) &&
         sigismember(&action->sa_mask, SIGPROF) == 1 && sigismember(&action->sa_mask, SIGSEGV) == 0;
}

static void note(unsigned which, const struct sigaction *action) {
  if (!has_our_code(which, action)) {
    pf_chain_push(which, action);
  }
}

/* `lock` held. Puts ours on top; 1 when another one, which `found` is then, was there although we had been installed. */
static int install(unsigned which, struct sigaction *found) {
  struct sigaction ours = make_ours(which), between;
  if (sigaction(pf_number_of(which), NULL, found) != 0) {
    return -errno;
  }
  if (is_intact(which, found, &ours)) {
    return 0;
  }
  note(which, found); /* before ours can be called */
  if (sigaction(pf_number_of(which), &ours, &between) != 0) {
    return -errno;
  }
  if (between.sa_sigaction != found->sa_sigaction) { /* somebody was here just now */
    note(which, &between);
    *found = between;
  }
  bool replaced = installed[which];
  installed[which] = true;
  return replaced;
}

/* `lock` held. Ours were replaced by those of a copy that serves us now: theirs stay on top. */
static void step_back(const struct sigaction *theirs, const bool *replaced) {
  for (unsigned which = 0; which < PF_SIGNALS; which++) {
    struct sigaction now;
    if (!replaced[which]) {
      continue;
    }
    pf_chain_remove(which, &theirs[which]);
    if (sigaction(pf_number_of(which), NULL, &now) == 0 && has_our_code(which, &now)) {
      sigaction(pf_number_of(which), &theirs[which], NULL);
    }
  }
}

/* `lock` held. SIGTRAP only from the first attempt on: debuggers and others use it. */
static int install_here(unsigned count) {
  struct sigaction found[PF_SIGNALS];
  bool replaced[PF_SIGNALS] = {false};
  int err = 0;
  for (unsigned which = 0; err >= 0 && which < count; which++) {
    err = install(which, &found[which]);
    if (err > 0) {
      replaced[which] = true;
      atomic_fetch_add(&reinstalls, 1);
    }
  }
  if (replaced[PF_ON_SEGV] && become_guest(&found[PF_ON_SEGV])) {
    step_back(found, replaced);
    return atomic_load(&host)->check(count);
  }
  return err < 0 ? err : 0;
}

static int install_locked(unsigned count) {
  int err = pf_signal_prepare();
  if (err < 0) {
    return err;
  }
  if (!installed[PF_ON_SEGV] && atomic_load(&host) == NULL) {
    struct sigaction now;
    if (sigaction(SIGSEGV, NULL, &now) == 0) {
      become_guest(&now);
    }
    void *code;
    memcpy(&code, &handlers[PF_ON_SEGV], sizeof code);
    keep_loaded(code);
  }
  const struct pagefault_handlers *served_by = atomic_load(&host);
  return served_by != NULL ? served_by->check(count) : install_here(count);
}

static int look(unsigned count) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  int err = install_locked(count > wanted ? count : wanted);
  if (err == 0 && count > wanted) {
    wanted = count;
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
  return err;
}

/* For guests, which call it with their own lock held. */
static int check_all(unsigned count) { return look(count < PF_SIGNALS ? count : PF_SIGNALS); }

int pf_install(unsigned count) { return atomic_load(&wanted) >= count ? 0 : look(count); }

int pf_signal_start(void) { return look(PF_ON_TRAP); }

int pf_signal_check(void) { return atomic_load(&wanted) == 0 || pf_crash_begun() ? 0 : look(0); }

uint64_t pf_signal_reinstalls(void) {
  const struct pagefault_handlers *served_by = atomic_load(&host);
  return atomic_load(&reinstalls) + (served_by != NULL && served_by->version >= 2 ? served_by->reinstalls() : 0);
}

uint64_t pf_signal_forwarded(void) {
  const struct pagefault_handlers *served_by = atomic_load(&host);
  return pf_chain_forwarded() + (served_by != NULL && served_by->version >= 2 ? served_by->forwarded() : 0);
}
