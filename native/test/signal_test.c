/* sanitizers: address,thread,none */
/*
 * Which faults are ours, and what becomes of the others: each scenario is a process of its own, this program run again, because handlers
 * are process-wide and some of them must die. A scenario exits with 0 when all was as it should be.
 */
#include "deaths.h"
#include "known.h"
#include "scenarios.h"

#include <sched.h>
#include <setjmp.h>
#include <time.h>
#include <ucontext.h>

/* --- the handler that was there before ------------------------------------------------------------------------------------------ */

static _Atomic int calls;
static int seen_number, seen_code;
static void *seen_addr;
static uintptr_t seen_instruction;
static sigset_t seen_mask;
static sigjmp_buf back;

static void note(int number, siginfo_t *info, void *context) {
  atomic_fetch_add(&calls, 1);
  seen_number = number;
  seen_code = info->si_code;
  seen_addr = info->si_addr;
#if KNOWN_INSTRUCTION
  seen_instruction = *instruction_of(context);
#endif
  (void)context;
  pthread_sigmask(SIG_SETMASK, NULL, &seen_mask);
}

/* Skips the load and gives it a value, so that the change of the context must have arrived. */
static void skip_load(int number, siginfo_t *info, void *context) {
  note(number, info, context);
#if KNOWN_INSTRUCTION
  if (info->si_code > 0) {
    *instruction_of(context) += KNOWN_LENGTH;
    set_result(context, 0x5a);
  }
#endif
}

static void jump_out(int number) {
  atomic_fetch_add(&calls, 1);
  seen_number = number;
  siglongjmp(back, 1);
}

static void install_for(int number, void (*with_info)(int, siginfo_t *, void *), void (*plain)(int), int flags) {
  struct sigaction action = {.sa_flags = flags};
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGUSR1);
  if (with_info != NULL) {
    action.sa_flags |= SA_SIGINFO;
    action.sa_sigaction = with_info;
  } else {
    action.sa_handler = plain;
  }
  sigaction(number, &action, NULL);
}

static void install_both(void (*with_info)(int, siginfo_t *, void *), void (*plain)(int), int flags) {
  install_for(SIGSEGV, with_info, plain, flags);
  install_for(SIGBUS, with_info, plain, flags);
}

/* The guard does not look at the handlers while this runs: we do, when it is time. */
static pf_region_t *known_region(pf_backend_t backend) {
  return open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.poll_ms = 600000));
}

static uint8_t *no_access(void) { return mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

/* Below vm.mmap_min_addr: nothing is ever mapped here. */
static uint8_t *not_mapped(void) { return (uint8_t *)(uintptr_t)12345; }

/* --- scenarios: foreign faults ------------------------------------------------------------------------------------------------------ */

static int foreign_to_siginfo(pf_backend_t backend) {
  install_both(skip_load, NULL, 0);
  pf_region_t *region = known_region(backend);
  uint64_t forwarded = pf_signal_forwarded();
#if KNOWN_INSTRUCTION
  uint8_t *closed = no_access();
  struct {
    uint8_t *addr;
    int code;
  } faults[] = {
      {not_mapped(), SEGV_MAPERR}, {closed, SEGV_ACCERR}, {NULL, SEGV_MAPERR}, {region->base + region->length, SEGV_ACCERR}};
  for (int i = 0; i < 4; i++) {
    EXPECT_EQ(known_load(faults[i].addr), 0x5a);
    EXPECT_EQ(atomic_load(&calls), i + 1);
    EXPECT_EQ(seen_number, SIGSEGV);
    EXPECT_EQ(seen_code, faults[i].code);
    EXPECT(seen_addr == faults[i].addr);
    EXPECT(seen_instruction == (uintptr_t)known_instruction);
    EXPECT(sigismember(&seen_mask, SIGSEGV) == 1 && sigismember(&seen_mask, SIGUSR1) == 1); /* what it asked for … */
    EXPECT(sigismember(&seen_mask, SIGUSR2) == 0 && sigismember(&seen_mask, SIGTERM) == 0); /* … and no more */
  }
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, NULL, &now);
  EXPECT(sigismember(&now, SIGSEGV) == 0 && sigismember(&now, SIGUSR1) == 0);
  EXPECT_EQ(pf_signal_forwarded(), forwarded + 4);
  munmap(region->base + 3 * PAGE, PAGE); /* somebody unmaps a page of ours: that is no missing page */
  EXPECT_EQ(known_load(region->base + 3 * PAGE + 1), 0x5a);
  EXPECT_EQ(seen_code, SEGV_MAPERR);
  EXPECT(seen_addr == region->base + 3 * PAGE + 1);
#endif
  EXPECT_EQ(touch(region, 5 * PAGE), pattern(5 * PAGE));
  return result();
}

static int foreign_bus(pf_backend_t backend) {
  install_both(skip_load, NULL, 0);
  pf_region_t *region = known_region(backend);
#if KNOWN_INSTRUCTION
  char path[64];
  make_path(path);
  write_file(path, 0, PAGE);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  uint8_t *mapped = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0); /* the kernel's own mmap, shorter than it should be */
  unlink(path);
  EXPECT_EQ(known_load(mapped + 2 * PAGE), 0x5a);
  EXPECT_EQ(seen_number, SIGBUS);
  EXPECT_EQ(seen_code, BUS_ADRERR);
  EXPECT(seen_addr == mapped + 2 * PAGE);
#endif
  EXPECT_EQ(touch(region, 5 * PAGE), pattern(5 * PAGE));
  EXPECT_EQ(atomic_load(&calls), KNOWN_INSTRUCTION);
  return result();
}

/* Leaves by siglongjmp, again and again; paging goes on. */
static int foreign_to_plain(pf_backend_t backend) {
  install_both(NULL, jump_out, 0);
  pf_region_t *region = known_region(backend);
  volatile int rounds = 0;
  uint8_t *addr = not_mapped();
  while (rounds < 500) {
    if (sigsetjmp(back, 1) == 0) {
      known_load(addr);
      EXPECT(false);
    }
    rounds++;
    EXPECT_EQ(seen_number, SIGSEGV);
    EXPECT_EQ(touch(region, (uint64_t)(rounds % 16) * PAGE), pattern((uint64_t)(rounds % 16) * PAGE));
  }
  EXPECT_EQ(atomic_load(&calls), 500);
  return result();
}

static int foreign_once(pf_backend_t backend) {
  install_both(skip_load, NULL, (int)SA_RESETHAND);
  known_region(backend);
  EXPECT_EQ(known_load(no_access()), KNOWN_INSTRUCTION ? 0x5a : 0);
  EXPECT_EQ(atomic_load(&calls), 1);
  if (result() != 0) {
    return 1;
  }
  known_load(no_access());
  return 2;
}

/* --- scenarios: signals that somebody sent ------------------------------------------------------------------------------------------ */

static void send_to_self(int number, int code, void *addr) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  info.si_signo = number;
  info.si_code = code;
  info.si_addr = addr;
  EXPECT(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, &info) == 0);
}

static int sent(pf_backend_t backend) {
  install_both(note, NULL, 0);
  pf_region_t *region = known_region(backend);
  const int signals[] = {SIGSEGV, SIGBUS};
  const int codes[] = {SI_USER, SI_QUEUE, SI_TKILL, SI_TIMER, SI_MESGQ, -60};
  int expected = 0;
  for (size_t s = 0; s < 2; s++) {
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
      void *addr = region->base + (2 + c) * PAGE;
      send_to_self(signals[s], codes[c], addr);
      EXPECT_EQ(atomic_load(&calls), ++expected);
      EXPECT_EQ(seen_number, signals[s]);
      EXPECT_EQ(seen_code, codes[c]);
      EXPECT(seen_addr == addr);
      EXPECT_EQ(state_of(region, 2 + c), PF_ABSENT);
    }
    raise(signals[s]);
    EXPECT_EQ(atomic_load(&calls), ++expected);
    kill(getpid(), signals[s]);
    EXPECT_EQ(atomic_load(&calls), ++expected);
    union sigval value = {.sival_ptr = region->base + PAGE};
    sigqueue(getpid(), signals[s], value);
    EXPECT_EQ(atomic_load(&calls), ++expected);
  }
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT_EQ(counter(&region->counters.loads), 0);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  return result();
}

/* --- scenarios that die ---------------------------------------------------------------------------------------------------------------- */

static void tell(const char *what, uintptr_t value) { fprintf(stderr, "%s=%#llx\n", what, (unsigned long long)value); }

static int die_of_a_fault(pf_backend_t backend) {
  known_region(backend);
  uint8_t *addr = no_access() + 9;
  tell("addr", (uintptr_t)addr);
#if KNOWN_INSTRUCTION
  tell("instruction", (uintptr_t)known_instruction);
#endif
  known_load(addr);
  return 2;
}

static int default_fault(pf_backend_t backend) {
  default_handlers();
  return die_of_a_fault(backend);
}

static int ignored_fault(pf_backend_t backend) {
  signal(SIGSEGV, SIG_IGN);
  signal(SIGBUS, SIG_IGN);
  return die_of_a_fault(backend);
}

/* A page that cannot be had. */
static int unreadable(pf_backend_t backend) {
  default_handlers();
  pf_source_t source = file_source(PAGE);
  source.check = false;
  pf_region_t *region = open_region(backend, source, 4 * PAGE, OPTIONS(.store_length = 4 * PAGE));
  tell("addr", (uintptr_t)region->base + 2 * PAGE + 5);
#if KNOWN_INSTRUCTION
  tell("instruction", (uintptr_t)known_instruction);
#endif
  known_load(region->base + 2 * PAGE + 5);
  return 2;
}

static int default_sent(pf_backend_t backend) {
  default_handlers();
  known_region(backend);
  kill(getpid(), SIGSEGV);
  pf_sleep_until(pf_now_ns() + 20000 * MS); /* a thread of ours that has just begun may take it in place of this one */
  return 2;
}

static int ignored_sent(pf_backend_t backend) {
  signal(SIGSEGV, SIG_IGN);
  signal(SIGBUS, SIG_IGN);
  pf_region_t *region = known_region(backend);
  kill(getpid(), SIGSEGV);
  raise(SIGBUS);
  EXPECT_EQ(touch(region, 0), pattern(0));
  return result();
}

/* The store's own memory is gone. */
static int nested(pf_backend_t backend) {
  default_handlers();
  uint8_t *bytes = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  pf_region_t *region = open_region(backend, source, 4 * PAGE, OPTIONS());
  munmap(bytes, 4 * PAGE);
  return touch(region, PAGE);
}

UNWATCHED static void write_to(uint8_t *addr) { *(volatile uint8_t *)addr = 1; }

static int write_absent(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.name = "only to read"));
  write_to(region->base + 3 * PAGE);
  return 2;
}

static int write_present(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.name = "only to read"));
  touch(region, 3 * PAGE);
  write_to(region->base + 3 * PAGE);
  return 2;
}

/* Somebody else closes a page of ours that is there: that is theirs to answer for, and no endless loop. */
static int closed_by_others(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = known_region(backend);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  mprotect(region->base + PAGE, PAGE, PROT_NONE);
  bool opened = touch(region, PAGE) == pattern(PAGE);
  return backend == PF_BACKEND_MPROTECT && opened ? 0 : 2;
}

/* --- scenarios: installing --------------------------------------------------------------------------------------------------------------- */

static int started_twice(pf_backend_t backend) {
  install_both(skip_load, NULL, 0);
  for (int i = 0; i < 5; i++) {
    EXPECT_EQ(pf_signal_start(), 0);
    EXPECT_EQ(pf_signal_check(), 0);
  }
  EXPECT_EQ(pf_signal_reinstalls(), 0);
  pf_region_t *region = known_region(backend);
#if KNOWN_INSTRUCTION
  EXPECT_EQ(known_load(no_access()), 0x5a);
  EXPECT_EQ(atomic_load(&calls), 1);
#endif
  EXPECT_EQ(touch(region, 0), pattern(0));
  struct sigaction ours;
  sigaction(SIGSEGV, NULL, &ours);
  EXPECT((ours.sa_flags & SA_ONSTACK) != 0 && (ours.sa_flags & SA_NODEFER) != 0 && (ours.sa_flags & SA_SIGINFO) != 0);
  EXPECT(sigismember(&ours.sa_mask, SIGPROF) == 1 && sigismember(&ours.sa_mask, SIGTERM) == 1 && sigismember(&ours.sa_mask, SIGSEGV) == 0);
  return result();
}

static struct sigaction saved[2];
static _Atomic int replacer_calls;

/* A well-behaved replacer: passes on what it saved. */
static void pass_on(int number, siginfo_t *info, void *context) {
  struct sigaction *to = &saved[number == SIGBUS];
  atomic_fetch_add(&replacer_calls, 1);
  to->sa_sigaction(number, info, context);
}

static void replace_ours(void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | (int)SA_NODEFER};
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &saved[0]);
  sigaction(SIGBUS, &action, &saved[1]);
}

static int replaced(pf_backend_t backend) {
  install_both(skip_load, NULL, 0);
  pf_region_t *region = known_region(backend);
  for (int round = 0; round < 4; round++) {
    uint64_t page = (uint64_t)round * 3;
    atomic_store(&calls, 0);
    replace_ours(pass_on);
    atomic_store(&replacer_calls, 0);
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE)); /* through the replacer */
    EXPECT_EQ(atomic_load(&replacer_calls), 1);
    EXPECT_EQ(pf_signal_check(), 0);
    EXPECT_EQ(pf_signal_reinstalls(), 2 * (round + 1));
    EXPECT_EQ(pf_signal_check(), 0);
    EXPECT_EQ(pf_signal_reinstalls(), 2 * (round + 1));
    atomic_store(&replacer_calls, 0);
    EXPECT_EQ(touch(region, (page + 1) * PAGE), pattern((page + 1) * PAGE)); /* ours again */
    EXPECT_EQ(atomic_load(&replacer_calls), 0);
#if KNOWN_INSTRUCTION
    EXPECT_EQ(known_load(no_access()), 0x5a); /* to the replacer, from it back to us, from us to the very first */
    EXPECT_EQ(atomic_load(&replacer_calls), 1);
    EXPECT_EQ(atomic_load(&calls), 1);
#endif
    EXPECT_EQ(touch(region, (page + 2) * PAGE), pattern((page + 2) * PAGE));
  }
  return result();
}

static void jump_out_with_info(int number, siginfo_t *info, void *context) {
  (void)info;
  (void)context;
  (void)number;
  atomic_fetch_add(&replacer_calls, 1);
  siglongjmp(back, 1);
}

UNWATCHED static void fault_deeper(const uint8_t *addr, int depth) {
  volatile uint8_t room[512];
  room[0] = (uint8_t)depth;
  if (depth > 0) {
    fault_deeper(addr, depth - 1);
  } else {
    known_load(addr);
  }
  room[1] = room[0];
}

/* A replacer that leaves by siglongjmp is asked again the next time, wherever on the stack that is. */
static int replaced_by_jumper(pf_backend_t backend) {
  install_both(skip_load, NULL, 0);
  pf_region_t *region = known_region(backend);
  replace_ours(jump_out_with_info);
  EXPECT_EQ(pf_signal_check(), 0);
  uint8_t *addr = no_access();
  volatile int rounds = 0;
  while (rounds < 30) {
    if (sigsetjmp(back, 1) == 0) {
      fault_deeper(addr, rounds * 7 % 11);
    }
    rounds++;
    EXPECT_EQ(atomic_load(&replacer_calls), rounds);
    EXPECT_EQ(touch(region, (uint64_t)(rounds % 16) * PAGE), pattern((uint64_t)(rounds % 16) * PAGE));
  }
  EXPECT_EQ(atomic_load(&calls), 0);
  return result();
}

/* A previous handler that touches paged memory itself. */
static pf_region_t *touched_by_handler;

static void touch_in_handler(int number, siginfo_t *info, void *context) {
  EXPECT_EQ(touch(touched_by_handler, 7 * PAGE), pattern(7 * PAGE));
  skip_load(number, info, context);
}

static int handler_touches(pf_backend_t backend) {
  install_both(touch_in_handler, NULL, (int)SA_NODEFER);
  touched_by_handler = known_region(backend);
#if KNOWN_INSTRUCTION
  EXPECT_EQ(known_load(no_access()), 0x5a);
  EXPECT_EQ(atomic_load(&calls), 1);
  EXPECT_EQ(state_of(touched_by_handler, 7), PF_PRESENT);
#endif
  return result();
}

/* --- scenarios: fork, stacks, other signals ---------------------------------------------------------------------------------------- */

static int forked(pf_backend_t backend) {
  default_handlers();
  pf_region_t *region = known_region(backend);
  EXPECT_EQ(touch(region, 0), pattern(0));
  for (uint64_t page = 0; page < 2; page++) { /* one that is there, one that is not */
    pid_t child = fork();
    if (child == 0) {
      alarm(patience(10));
      _exit(touch(region, page * PAGE) == 0 ? 99 : 98);
    }
    int status;
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS));
  }
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  return result();
}

static void *touch_on_other_stack(void *data) {
  pf_region_t *region = data;
  size_t size = 65536 * (SLOW ? 4 : 1);
  stack_t stack = {.ss_sp = malloc(size), .ss_size = size};
  sigaltstack(&stack, NULL);
  EXPECT_EQ(touch(region, 9 * PAGE), pattern(9 * PAGE));
  stack_t none = {.ss_flags = SS_DISABLE};
  sigaltstack(&none, NULL);
  free(stack.ss_sp);
  return NULL;
}

static int on_other_stack(pf_backend_t backend) {
  pf_region_t *region = known_region(backend);
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_on_other_stack, region) == 0, "a thread");
  pthread_join(thread, NULL);
  return result();
}

static pf_region_t *interrupted_region;
static _Atomic int interrupted_state;

static void on_user_signal(int number) {
  (void)number;
  atomic_store(&interrupted_state, (int)state_of(interrupted_region, 1));
  EXPECT_EQ(touch(interrupted_region, 2 * PAGE), pattern(2 * PAGE)); /* a handler may fault too */
}

static _Atomic int may_answer;

/* The page that is waited for, when it may come. */
static bool serve_when_told(test_store_t *store, const pf_order_t *order) {
  (void)store;
  while (order->offset == PAGE && !atomic_load(&may_answer)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  return true;
}

static void *touch_slow_page(void *data) {
  EXPECT_EQ(touch(data, PAGE), pattern(PAGE));
  return NULL;
}

static bool is_loading(void *data) { return state_of(data, 1) == PF_LOADING; }

/* A signal that comes while a thread waits for a page is handled when the page is there, not before. */
static int masked_while_waiting(pf_backend_t backend) {
  test_store_t store = {.serve = serve_when_told};
  start_store(&store);
  interrupted_region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  atomic_store(&interrupted_state, -1);
  signal(SIGUSR1, on_user_signal);
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_slow_page, interrupted_region) == 0, "a thread");
  EXPECT(wait_until(is_loading, interrupted_region, LONG_MS / 2));
  pf_sleep_until(pf_now_ns() + 20 * MS);
  pthread_kill(thread, SIGUSR1);
  pf_sleep_until(pf_now_ns() + 50 * MS);
  EXPECT_EQ(atomic_load(&interrupted_state), -1);
  atomic_store(&may_answer, 1);
  pthread_join(thread, NULL);
  EXPECT_EQ(atomic_load(&interrupted_state), PF_PRESENT);
  EXPECT(close_region(interrupted_region));
  stop_store(&store);
  return result();
}

static _Atomic unsigned ticks;

static void on_tick(int number) {
  (void)number;
  atomic_fetch_add(&ticks, 1);
}

static int profiled(pf_backend_t backend) {
  struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
  sigaction(SIGPROF, &action, NULL);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
  timer_t timer;
  must(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "a timer");
  struct itimerspec every = {.it_interval = {.tv_nsec = 100000}, .it_value = {.tv_nsec = 100000}};
  timer_settime(timer, 0, &every, NULL);

  uint64_t len = 2000 * PAGE;
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, file_source(len), len, OPTIONS(.budget = budget, .readahead = -1));
  uint64_t end = pf_now_ns() + 400 * MS, latest = end + SOON;
  for (uint64_t seed = 3; pf_now_ns() < end || (atomic_load(&ticks) <= 500 && pf_now_ns() < latest);) {
    uint64_t offset = random_next(&seed) % len;
    EXPECT_EQ(touch(region, offset), pattern(offset));
  }
  EXPECT(close_region(region));
  pf_budget_drop(budget);

  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS(.timeout_ms = 300));
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 300 * MS}; /* signals not masked: the wait is interrupted thousands of times */
  pf_why_t why;
  uint64_t started = pf_now_ns();
  EXPECT(!pf_page_ensure(region, 0, &wait, &why));
  uint64_t took = pf_now_ns() - started;
  EXPECT_EQ(why.code, PF_E_TIMEOUT);
  EXPECT(took >= 300 * MS && took < 300 * MS + SOON);
  EXPECT(atomic_load(&ticks) > 500);
  timer_delete(timer);
  EXPECT(close_region(region));
  stop_store(&store);
  return result();
}

#if defined(__x86_64__)

static _Atomic int enough;

static void *release_again_and_again(void *data) {
  sigset_t before;
  pf_mask_signals(&before);
  while (!atomic_load(&enough)) {
    pf_region_release(data, 0, 16);
    sched_yield();
  }
  return NULL;
}

static void touch_on_tick(int number) {
  (void)number;
  atomic_fetch_add(&ticks, 1);
  EXPECT_EQ(touch(interrupted_region, PAGE), pattern(PAGE));
}

/* Attempts begin and end while signals come whose handler faults: what the handler's fault needs of the thread's place, and gives back, is not the attempt's. */
static int interrupted_attempts(pf_backend_t backend) {
  pf_source_t source = file_source(PAGE);
  source.check = false;
  pf_region_t *cut = open_region(backend, source, 4 * PAGE, OPTIONS(.store_length = 4 * PAGE));
  interrupted_region = known_region(backend);
  pthread_t thread;
  must(pthread_create(&thread, NULL, release_again_and_again, interrupted_region) == 0, "a thread");
  struct sigaction action = {.sa_handler = touch_on_tick, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  timer_t timer;
  must(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "a timer");
  struct itimerspec every = {.it_interval = {.tv_nsec = 20000}, .it_value = {.tv_nsec = 20000}};
  timer_settime(timer, 0, &every, NULL);
  pf_failure_t failure;
  for (uint64_t end = pf_now_ns() + 1500 * MS; pf_now_ns() < end;) {
    for (int i = 0; i < 50; i++) {
      EXPECT_EQ(pf_attempt_begin(), 0);
      EXPECT(!pf_attempt_end(&failure));
    }
    EXPECT_EQ(pf_attempt_begin(), 0);
    touch(cut, 2 * PAGE);
    EXPECT(pf_attempt_end(&failure));
  }
  timer_delete(timer);
  atomic_store(&enough, 1);
  pthread_join(thread, NULL);
  EXPECT(atomic_load(&ticks) > 0);
  EXPECT(close_region(cut) && close_region(interrupted_region));
  return result();
}

WELL(test_interrupted_attempts, "interrupted attempts")

#endif

/* --- running them ------------------------------------------------------------------------------------------------------------------------------ */

static const scenario_t scenarios[] = {
    {"foreign to siginfo", foreign_to_siginfo}, {"foreign bus", foreign_bus}, {"foreign to plain", foreign_to_plain},
    {"foreign once", foreign_once}, {"sent", sent}, {"default fault", default_fault}, {"ignored fault", ignored_fault},
    {"unreadable", unreadable}, {"default sent", default_sent}, {"ignored sent", ignored_sent}, {"nested", nested},
    {"write absent", write_absent}, {"write present", write_present}, {"closed by others", closed_by_others}, {"started twice", started_twice},
    {"replaced", replaced}, {"replaced by jumper", replaced_by_jumper}, {"handler touches", handler_touches}, {"forked", forked},
    {"on other stack", on_other_stack}, {"masked while waiting", masked_while_waiting}, {"profiled", profiled},
#if defined(__x86_64__)
    {"interrupted attempts", interrupted_attempts},
#endif
};

WELL(test_siginfo, "foreign to siginfo")
WELL(test_bus, "foreign bus")
WELL(test_plain, "foreign to plain")
WELL(test_sent, "sent")
WELL(test_ignored_sent, "ignored sent")
WELL(test_twice, "started twice")
WELL(test_replaced, "replaced")
WELL(test_jumper, "replaced by jumper")
WELL(test_handler_touches, "handler touches")
WELL(test_forked, "forked")
WELL(test_stack, "on other stack")
WELL(test_masked, "masked while waiting")
WELL(test_profiled, "profiled")

static void test_once(pf_backend_t backend) {
  ended_t ended;
  run_child("foreign once", backend, &ended);
  EXPECT_SIGNAL(&ended, SIGSEGV);
}

static void test_nested(pf_backend_t backend) {
  ended_t ended;
  uint64_t started = pf_now_ns();
  run_child("nested", backend, &ended);
  EXPECT_SIGNAL(&ended, SIGSEGV);
  EXPECT_TEXT(&ended, "a fault inside pagefault's own handler");
  EXPECT(pf_now_ns() - started < SOON);
}

static void test_writes(pf_backend_t backend) {
  const char *const names[] = {"write absent", "write present"};
  for (size_t i = 0; i < 2; i++) {
    ended_t ended;
    run_child(names[i], backend, &ended);
    EXPECT_SIGNAL(&ended, SIGSEGV);
    EXPECT_TEXT(&ended, "writable");
    EXPECT_TEXT(&ended, "only to read");
    EXPECT_TEXT(&ended, "page 3 of 16");
  }
}

static void test_closed_by_others(pf_backend_t backend) {
  ended_t ended;
  run_child("closed by others", backend, &ended);
  if (backend != PF_BACKEND_MPROTECT) {
    EXPECT_SIGNAL(&ended, SIGSEGV);
  } else {
    EXPECT_EXIT(&ended, 0);
  }
}

/* --- deaths ------------------------------------------------------------------------------------------------------------------ */

static void test_default(pf_backend_t backend) { expect_original("default fault", backend, SIGSEGV); }
static void test_ignored(pf_backend_t backend) { expect_original("ignored fault", backend, SIGSEGV); }
static void test_unreadable(pf_backend_t backend) { expect_original("unreadable", backend, fatal_signal(backend)); }

static void test_default_sent(pf_backend_t backend) {
  death_t death = {0};
  for (int tries = 0; death.count == 0 && tries < 10; tries++) { /* none: it was a thread that is not watched that got it */
    watch_death("default sent", backend, &death);
    if (!death.traced) {
      return;
    }
    EXPECT_SIGNAL(&death.ended, SIGSEGV);
  }
  EXPECT_EQ(death.count, 2);
  EXPECT_EQ(death.stops[0].code, SI_USER);
  EXPECT_EQ(death.stops[1].code, SI_USER);
  EXPECT(death.stops[0].instruction == death.stops[1].instruction); /* where it was sent, not in our handler */
}

/* What is about the handler that brings the page: backend 'thread' does that elsewhere. */
static void test_signals(const char *sentence, void (*body)(pf_backend_t)) {
  for (pf_backend_t backend = PF_BACKEND_SIGNAL; backend < PF_BACKEND_THREAD; backend++) {
    test_on(backend, sentence, body);
  }
}

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_each("a foreign fault reaches the handler that was there before, with the original context", test_siginfo);
  test_each("a foreign SIGBUS does too", test_bus);
  test_each("a plain handler is called, and may leave by siglongjmp", test_plain);
  test_each("a handler with SA_RESETHAND is called once", test_once);
  test_each("a signal that was sent is never ours, whatever address it claims", test_sent);
  test_each("with SIG_DFL a foreign fault ends the process at its own instruction", test_default);
  test_each("with SIG_IGN too", test_ignored);
  test_each("a page that cannot be had ends the process at the instruction that touched it", test_unreadable);
  test_each("with SIG_DFL a signal that was sent ends the process where it arrived", test_default_sent);
  test_each("with SIG_IGN a signal that was sent is ignored", test_ignored_sent);
  if (!TSAN) { /* it blocks every signal in every handler, so that no handler can fault */
    test_signals("a fault inside our own handler ends the process at once and says so", test_nested);
    test_signals("signals that can wait wait until the page is there, and their handlers may fault", test_masked);
    test_each("the handler that was there before may touch pages", test_handler_touches);
#if defined(__x86_64__) /* elsewhere an access cannot be redirected */
    test_each("attempts are what they were when signals come in between whose handlers fault", test_interrupted_attempts);
#endif
  }
  test_each("a raw write ends the process with a report that names writable", test_writes);
  test_each("a page that somebody else has closed is no endless loop", test_closed_by_others);
  test_each("starting again is harmless", test_twice);
  test_signals("a replaced handler is put back, and chains do not loop", test_replaced);
  test_signals("a replacer that leaves by siglongjmp is asked again", test_jumper);
  test_each("a forked child that touches a segment dies and never reads zeroes", test_forked);
  test_each("a thread with a stack of its own for signals faults as any other", test_stack);
  test_each("deadlines hold and bytes are right under a profiler of 10 kHz", test_profiled);
  return summary();
}
