/* sanitizers: address,thread,none */
/*
 * Handlers that others put over ours, under ours and off again: who is asked, in which order, and what a thread finds that must not be ended, has little stack or no place
 * in our tables. Each scenario is a process of its own, this program run again. A scenario exits with 0 when all was as it should be.
 */
#include "chain.h"
#include "known.h"
#include "scenarios.h"
#include "thread.h"

#include <setjmp.h>
#include <sys/auxv.h>

/* --- handlers that write down that they were called ----------------------------------------------------------------------------- */

static char order[16]; /* of one fault */
static _Atomic int asked;

static void ask(char who) {
  int at = atomic_fetch_add(&asked, 1);
  if (at < (int)sizeof order - 1) {
    __atomic_store_n(&order[at], who, __ATOMIC_RELAXED);
  }
}

static void forget_order(void) {
  atomic_store(&asked, 0);
  memset(order, 0, sizeof order);
}

/* Was there before us, and knows what to do: it steps over the load. */
static void first(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  ask('1');
#if KNOWN_INSTRUCTION
  *instruction_of(context) += KNOWN_LENGTH;
  set_result(context, 0x5a);
#else
  (void)context;
#endif
}

static struct sigaction saved_by_a[2], saved_by_b[2];

static void a(int number, siginfo_t *info, void *context) {
  ask('a');
  saved_by_a[number == SIGBUS].sa_sigaction(number, info, context);
}

static void b(int number, siginfo_t *info, void *context) {
  ask('b');
  saved_by_b[number == SIGBUS].sa_sigaction(number, info, context);
}

static void put(void (*handler)(int, siginfo_t *, void *), int flags, struct sigaction saved[2]) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, saved == NULL ? NULL : &saved[0]);
  sigaction(SIGBUS, &action, saved == NULL ? NULL : &saved[1]);
}

/* The guard does not look at the handlers while this runs: we do, when it is time. */
static pf_region_t *known_region(pf_backend_t backend) {
  return open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.poll_ms = 600000));
}

static uint8_t *no_access(void) { return mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static uint8_t *closed;

/* A fault that is nobody's goes to these, in this order. */
static void expect_order(const char *wanted) {
#if KNOWN_INSTRUCTION
  closed = closed == NULL ? no_access() : closed;
  forget_order();
  EXPECT_EQ(known_load(closed), 0x5a);
  EXPECT(strcmp(order, wanted) == 0);
  if (strcmp(order, wanted) != 0) {
    printf("  asked: %s, expected %s\n", order, wanted);
  }
#else
  (void)wanted, (void)closed;
#endif
}

static void expect_own(pf_region_t *region, uint64_t page) {
  forget_order();
  EXPECT_EQ(touch(region, page * PAGE + 3), pattern(page * PAGE + 3));
  EXPECT_EQ(atomic_load(&asked), 0);
}

/* --- scenarios: who is asked -------------------------------------------------------------------------------------------------------- */

static int in_order(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  expect_order("1");
  put(a, SA_NODEFER, saved_by_a);
  EXPECT_EQ(pf_signal_check(), 0);
  expect_order("a1");
  put(b, SA_NODEFER, saved_by_b);
  EXPECT_EQ(pf_signal_check(), 0);
  expect_order("ba1");
  put(a, SA_NODEFER, saved_by_a); /* again: it is the newest now, and there once */
  EXPECT_EQ(pf_signal_check(), 0);
  expect_order("ab1");
  expect_own(region, 1);
  put(b, SA_NODEFER, saved_by_b); /* one over the other between two looks of ours: b hands on to a itself */
  put(a, SA_NODEFER, saved_by_a);
  EXPECT_EQ(pf_signal_check(), 0);
  expect_own(region, 2);
  expect_order("abb1"); /* a's own way to b, and ours */
  EXPECT_EQ(pf_signal_reinstalls(), 8);
  return result();
}

/* Somebody sets the default action, or what was there at the very first: nothing lies over that any more. */
static int taken_off(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put(a, SA_NODEFER, saved_by_a);
  pf_signal_check();
  signal(SIGSEGV, SIG_DFL);
  signal(SIGBUS, SIG_DFL);
  pf_signal_check();
  expect_order("1");
  put(a, SA_NODEFER, saved_by_a);
  pf_signal_check();
  put(first, 0, NULL);
  pf_signal_check();
  expect_order("1");
  signal(SIGSEGV, SIG_IGN); /* faults are not ignored */
  signal(SIGBUS, SIG_IGN);
  pf_signal_check();
  expect_order("1");
  forget_order();
  raise(SIGSEGV); /* what is sent is */
  EXPECT_EQ(atomic_load(&asked), 0);
  expect_own(region, 1);
  return result();
}

static int once(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put(a, SA_NODEFER | (int)SA_RESETHAND, saved_by_a);
  pf_signal_check();
  expect_order("a1");
  expect_order("1");
  expect_own(region, 1);
  return result();
}

static _Atomic unsigned crash_round, crashed;
static _Atomic int crashed_enough;

static void *crash_in_each_round(void *unused) {
  (void)unused;
  for (unsigned round = 1;; round++) {
    for (int spins = 0; atomic_load(&crash_round) < round; spins++) {
      if (atomic_load(&crashed_enough)) {
        return NULL;
      }
      if (spins > 10000) { /* else it would not be in the same moment */
        sched_yield();
      }
    }
    EXPECT_EQ(known_load(closed), KNOWN_INSTRUCTION ? 0x5a : 0);
    atomic_fetch_add(&crashed, 1);
  }
}

/* Two threads crash at once: it is called for one of them. */
static int once_for_all(pf_backend_t backend) {
  put(first, 0, NULL);
  known_region(backend);
  closed = no_access();
  unsigned rounds = pf_region_any_by_segv() || SLOW ? 50 : 3000; /* where pages are SIGSEGV, who crashes waits for a moment */
  pthread_t threads[2];
  for (int i = 0; KNOWN_INSTRUCTION && i < 2; i++) {
    must(pthread_create(&threads[i], NULL, crash_in_each_round, NULL) == 0, "a thread");
  }
  uint64_t end = pf_now_ns() + 2000 * MS; /* on a busy machine there are fewer */
  for (unsigned round = 1; KNOWN_INSTRUCTION && round <= rounds && pf_now_ns() < end; round++) {
    put(a, SA_NODEFER | (int)SA_RESETHAND, saved_by_a);
    EXPECT_EQ(pf_signal_check(), 0);
    forget_order();
    atomic_store(&crash_round, round);
    while (atomic_load(&crashed) < 2 * round) {
      sched_yield();
    }
    EXPECT_EQ(atomic_load(&asked), 3);
    EXPECT(strchr(order, 'a') != NULL && strchr(order, 'a') == strrchr(order, 'a'));
  }
  atomic_store(&crashed_enough, 1);
  for (int i = 0; KNOWN_INSTRUCTION && i < 2; i++) {
    pthread_join(threads[i], NULL);
  }
  return result();
}

/* A library that was unloaded and left its handler. */
static int unloaded(pf_backend_t backend) {
#if defined(__x86_64__)
  static const uint8_t code[] = {0xc3};
#elif defined(__aarch64__)
  static const uint8_t code[] = {0xc0, 0x03, 0x5f, 0xd6};
#else
  static const uint8_t code[] = {0};
#endif
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  uint8_t *library = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(library, code, sizeof code);
  mprotect(library, PAGE, PROT_READ | PROT_EXEC);
  void (*handler)(int, siginfo_t *, void *);
  memcpy(&handler, &library, sizeof handler);
  put(handler, 0, NULL);
  pf_signal_check();
  closed = no_access(); /* before, so that it does not take that place */
  munmap(library, PAGE);
  expect_order("1");
  expect_own(region, 1);
  return result();
}

/* --- scenarios: handlers that know the number only ------------------------------------------------------------------------------------ */

static void (*plain_saved[2])(int);
static _Atomic int plain_calls, has_page;

static void plain(int number) {
  atomic_fetch_add(&plain_calls, 1);
  plain_saved[number == SIGBUS](number); /* ours, which wants more than that */
}

static void put_plain(void) {
  plain_saved[0] = signal(SIGSEGV, plain);
  plain_saved[1] = signal(SIGBUS, plain);
}

#define ROUNDS 2400 /* of all kinds of rubbish, hundreds of each */

/* Looks at the handlers when so many calls have come. */
static void *check_after(void *calls) {
  while (atomic_load(&plain_calls) < *(const int *)calls && !atomic_load(&has_page)) {
    sched_yield();
  }
  EXPECT_EQ(pf_signal_check(), 0);
  return NULL;
}

static int told_only_the_number(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put_plain();
  pthread_t thread;
  int calls = 3;
  must(pthread_create(&thread, NULL, check_after, &calls) == 0, "a thread");
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE)); /* again and again, until ours is back */
  atomic_store(&has_page, 1);
  pthread_join(thread, NULL);
  EXPECT(atomic_load(&plain_calls) >= 3);
  EXPECT_EQ(pf_signal_reinstalls(), 2);
  expect_order("1"); /* it is asked some times, does nothing, and is passed over */
  return result();
}

/* What the registers hold when such a handler calls ours: nothing, or places that have been written before. */
static siginfo_t stale_info;
static const void *contexts[8];
static uint64_t rubbish[512];
static uint64_t plain_seed = 1;

static void plain_with_rubbish(int number) {
  int round = atomic_fetch_add(&plain_calls, 1);
  if (round >= ROUNDS) {
    plain_saved[number == SIGBUS](number);
    return;
  }
  void (*ours)(int, siginfo_t *, void *);
  memcpy(&ours, &plain_saved[number == SIGBUS], sizeof ours);
  for (size_t i = 0; i < sizeof rubbish / sizeof *rubbish; i++) {
    rubbish[i] = random_next(&plain_seed);
  }
  memcpy(&stale_info, rubbish, sizeof stale_info);
  stale_info.si_signo = number;
  stale_info.si_code = round % 3 == 0 ? (int)random_next(&plain_seed) : round % 3 == 1 ? SEGV_ACCERR : SI_USER;
  ours(number, &stale_info, (void *)(uintptr_t)contexts[(size_t)round % (sizeof contexts / sizeof *contexts)]);
}

static int told_rubbish(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  void (*ours)(int) = signal(SIGBUS, plain_with_rubbish);
  plain_saved[0] = signal(SIGSEGV, plain_with_rubbish);
  plain_saved[1] = ours;
  uint8_t *zeroes = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *ones = malloc(PAGE);
  memset(ones, 255, PAGE);
  /* Its own address is what a handler holds that was compiled without optimization. */
  const void *all[] = {(const void *)(uintptr_t)ours, zeroes, ones, rubbish, (const char *)rubbish + 1, NULL, no_access(), "text"};
  memcpy(contexts, all, sizeof all);
  pthread_t thread;
  int rounds = ROUNDS;
  must(pthread_create(&thread, NULL, check_after, &rounds) == 0, "a thread");
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  atomic_store(&has_page, 1);
  pthread_join(thread, NULL);
  EXPECT(atomic_load(&plain_calls) >= ROUNDS);
  expect_order("1");
  expect_own(region, 2);
  free(ones);
  return result();
}

/* signal() gives back our handler without what makes it one. */
static int put_back_by_signal(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put_plain();
  signal(SIGSEGV, plain_saved[0]);
  signal(SIGBUS, plain_saved[1]);
  EXPECT_EQ(pf_signal_check(), 0);
  EXPECT_EQ(pf_signal_reinstalls(), 2);
  EXPECT_EQ(pf_signal_check(), 0);
  EXPECT_EQ(pf_signal_reinstalls(), 2);
  expect_order("1");
  expect_own(region, 1);
  struct sigaction now;
  sigaction(SIGSEGV, NULL, &now);
  EXPECT((now.sa_flags & (SA_SIGINFO | SA_ONSTACK | (int)SA_NODEFER)) == (SA_SIGINFO | SA_ONSTACK | (int)SA_NODEFER));
  return result();
}

static void crash_plainly(int number) { (void)number; }

/* Without us it would be an endless loop. */
static int crash_under_plain(pf_backend_t backend) {
  default_handlers();
  known_region(backend);
  signal(SIGSEGV, crash_plainly);
  pf_signal_check();
  known_load(no_access());
  return 2;
}

/* --- scenarios: somebody who puts himself over ours again and again ---------------------------------------------------------------------- */

static _Atomic int stop;

/* Each signal by itself: what it keeps must never be itself, which would hand on to itself for ever. */
static void put_over(int number) {
  struct sigaction now, action = {.sa_sigaction = a, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigemptyset(&action.sa_mask);
  sigaction(number, NULL, &now);
  if (now.sa_sigaction != a) {
    sigaction(number, &action, &saved_by_a[number == SIGBUS]);
  }
}

/* ThreadSanitizer's sigaction() is not one step: one thread may read half of what another one sets, and take it for a handler of its own. There, one thread does both. */
static void *reinstall(void *data) {
  (void)data;
  while (!atomic_load(&stop)) {
    put_over(SIGSEGV);
    put_over(SIGBUS);
    EXPECT_EQ(TSAN ? pf_signal_check() : 0, 0);
    pf_sleep_until(pf_now_ns() + MS / 2);
  }
  return NULL;
}

static void *look_after(void *data) {
  (void)data;
  while (!TSAN && !atomic_load(&stop)) {
    EXPECT_EQ(pf_signal_check(), 0);
    pf_sleep_until(pf_now_ns() + MS / 2);
  }
  return NULL;
}

static void *touch_all(void *data) {
  pf_region_t *region = data;
  for (int round = 0; round < (SLOW ? 20 : 100); round++) {
    for (uint64_t page = 0; page < 64; page++) {
      EXPECT_EQ(touch(region, page * PAGE + 9), pattern(page * PAGE + 9));
    }
    pf_region_release(region, 0, 64);
  }
  return NULL;
}

static int again_and_again(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put(a, SA_NODEFER, saved_by_a);
  pthread_t over, under, touchers[3];
  must(pthread_create(&over, NULL, reinstall, NULL) == 0 && pthread_create(&under, NULL, look_after, NULL) == 0, "threads");
  for (int i = 0; i < 3; i++) {
    must(pthread_create(&touchers[i], NULL, touch_all, region) == 0, "a thread");
  }
  for (int i = 0; i < 3; i++) {
    pthread_join(touchers[i], NULL);
  }
#if KNOWN_INSTRUCTION
  closed = no_access();
  for (int i = 0; i < 300; i++) {
    forget_order();
    EXPECT_EQ(known_load(closed), 0x5a);
    bool fine = strcmp(order, "a1") == 0 || strcmp(order, "aa1") == 0; /* twice: it was on top itself */
    EXPECT(fine);
    if (!fine) {
      printf("  they were asked in the order %s\n", order);
    }
  }
#endif
  atomic_store(&stop, 1);
  pthread_join(over, NULL);
  pthread_join(under, NULL);
  EXPECT(pf_signal_reinstalls() > 2);
  return result();
}

/* A hundred libraries, each over the one before. */
static void others(int number, siginfo_t *info, void *context) { a(number, info, context); }

static int many(pf_backend_t backend) {
  put(first, 0, NULL);
  pf_region_t *region = known_region(backend);
  put(a, SA_NODEFER, saved_by_a);
  pf_signal_check();
  for (int i = 0; i < 200; i++) {
    struct sigaction action = {.sa_sigaction = others, .sa_flags = SA_SIGINFO | (int)SA_NODEFER};
    sigemptyset(&action.sa_mask);
    for (int bit = 0; bit < 8; bit++) { /* each is told from the others by its mask */
      if (i >> bit & 1) {
        sigaddset(&action.sa_mask, SIGRTMIN + 1 + bit);
      }
    }
    sigaction(SIGSEGV, &action, NULL);
    pf_signal_check();
  }
  forget_order();
#if KNOWN_INSTRUCTION
  EXPECT_EQ(known_load(no_access()), 0x5a);
  EXPECT(strchr(order, '1') != NULL); /* the first is never forgotten */
#endif
  expect_own(region, 1);
  return result();
}

/* --- scenarios: threads that are ended, have little stack, or no place --------------------------------------------------------------------- */

static _Atomic int may_answer;

static bool serve_when_told(test_store_t *store, const pf_order_t *asked_for) {
  (void)store;
  while (asked_for->offset == PAGE && !atomic_load(&may_answer)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  return true;
}

static _Atomic int went_on;

static void *wait_for_page(void *data) {
  EXPECT_EQ(touch(data, PAGE), pattern(PAGE));
  atomic_store(&went_on, 1);
  pthread_testcancel();
  return NULL;
}

static bool is_loading(void *data) { return state_of(data, 1) == PF_LOADING; }

static int cancelled(pf_backend_t backend) {
  test_store_t store = {.serve = serve_when_told};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pthread_t thread;
  void *ended;
  must(pthread_create(&thread, NULL, wait_for_page, region) == 0, "a thread");
  EXPECT(wait_until(is_loading, region, 10000));
  pthread_cancel(thread);
  pf_sleep_until(pf_now_ns() + 20 * MS);
  EXPECT_EQ(state_of(region, 1), PF_LOADING); /* it still waits */
  atomic_store(&may_answer, 1);
  pthread_join(thread, &ended);
  EXPECT(ended == PTHREAD_CANCELED);
  EXPECT_EQ(atomic_load(&went_on), 1); /* it was ended where it may be, after it had the page */
  EXPECT_EQ(state_of(region, 1), PF_PRESENT);
  EXPECT(close_region(region)); /* nobody is left inside */
  stop_store(&store);
  return result();
}

static void *touch_for_ever(void *data) {
  pf_region_t *region = data;
  for (;;) {
    for (uint64_t page = 0; page < 64; page++) {
      touch(region, page * PAGE);
    }
    pf_region_release(region, 0, 64);
    pthread_testcancel();
  }
  return NULL;
}

/* Of a file: pread is a point at which threads are ended. */
static int cancelled_while_reading(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS());
  for (int round = 0; round < (SLOW ? 10 : 60); round++) {
    pthread_t thread;
    void *ended;
    must(pthread_create(&thread, NULL, touch_for_ever, region) == 0, "a thread");
    pf_sleep_until(pf_now_ns() + (uint64_t)(round % 7) * MS / 4);
    pthread_cancel(thread);
    pthread_join(thread, &ended);
    EXPECT(ended == PTHREAD_CANCELED);
  }
  EXPECT_EQ(first_difference(region, 0, 64 * PAGE, 0, 64 * PAGE), 64 * PAGE);
  EXPECT(close_region(region));
  return result();
}

/* What runtimes of other languages give each of their threads, where the kernel's frame leaves some of it. */
static size_t small_stack_size(void) {
  size_t frame = getauxval(AT_MINSIGSTKSZ); /* 5.14; with AVX-512 3.4 KiB, with AMX 11 */
  return frame < 3584 ? 8192 : (frame + 8192 + PAGE - 1) & ~(PAGE - 1);
}

UNWATCHED static void write_to(uint8_t *addr) { *(volatile uint8_t *)addr = 1; }

static void *touch_on_small_stack(void *data) {
  pf_region_t *region = data;
  size_t size = small_stack_size();
  uint8_t *memory = mmap(NULL, PAGE + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(memory + PAGE, size, PROT_READ | PROT_WRITE);
  memset(memory + PAGE, 0xa5, size);
  stack_t stack = {.ss_sp = memory + PAGE, .ss_size = size}, none = {.ss_flags = SS_DISABLE};
  sigaltstack(&stack, NULL);
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
    if (region->writable) {
      write_to(region->base + page * PAGE + 1);
    }
  }
  sigaltstack(&none, NULL);
  size_t untouched = 0;
  while (untouched < size && memory[PAGE + untouched] == 0xa5) {
    untouched++;
  }
  if (getenv("PF_TEST_TIMES") != NULL) {
    fprintf(stderr, "stack used: %zu\n", size - untouched);
  }
  munmap(memory, PAGE + size);
  return NULL;
}

/* Read and written, with and without a budget, from memory and from a file. */
static int small_stack(pf_backend_t backend) {
  pf_budget_t *budget;
  char path[64];
  make_path(path);
  write_file(path, 0, 64 * PAGE);
  pf_source_t writable = file_source_at(path, 0);
  close(writable.fd);
  writable.fd = open(path, O_RDWR | O_CLOEXEC);
  unlink(path);
  must(pf_budget_create(16 * PAGE, &budget) == 0, "a budget");
  pf_region_t *regions[] = {
      known_region(backend), open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS(.budget = budget, .readahead = -1)),
      open_region(backend, writable, 64 * PAGE, OPTIONS(.budget = budget, .readahead = -1, .writable = true))};
  for (int i = 0; i < 3; i++) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, touch_on_small_stack, regions[i]) == 0, "a thread");
    pthread_join(thread, NULL);
  }
  return result();
}

#define CROWD 1400

static _Atomic int in_crowd, without_place;

static void *take_place(void *data) {
  (void)data;
  bool has_place = pf_attempt_begin() == 0;
  atomic_fetch_add(has_place ? &in_crowd : &without_place, 1);
  while (!atomic_load(&stop)) {
    pf_sleep_until(pf_now_ns() + 5 * MS);
  }
  if (has_place) {
    pf_failure_t failure;
    EXPECT(!pf_attempt_end(&failure));
  }
  return NULL;
}

static void *touch_some(void *data) {
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(touch(data, page * PAGE), pattern(page * PAGE));
  }
  return NULL;
}

/* More threads than have a place: those without wait for one, and attempts say that there is none. */
static int crowded(pf_backend_t backend) {
  static pthread_t threads[CROWD];
  pf_region_t *region = known_region(backend);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 65536);
  int count = 0;
  while (count < CROWD && pthread_create(&threads[count], &attr, take_place, NULL) == 0) {
    count++;
  }
  while (atomic_load(&in_crowd) + atomic_load(&without_place) < count) {
    sched_yield();
  }
  EXPECT(atomic_load(&in_crowd) <= PF_THREADS_MAX);
  EXPECT(count < CROWD || atomic_load(&without_place) > 0);
  pthread_t touchers[8];
  for (int i = 0; i < 8; i++) {
    must(pthread_create(&touchers[i], NULL, touch_some, region) == 0, "a thread");
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 8; i++) {
    pthread_join(touchers[i], NULL);
  }
  for (int i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(pf_attempt_begin(), 0);
  pf_failure_t failure;
  EXPECT(!pf_attempt_end(&failure));
  EXPECT(close_region(region));
  return result();
}

/* --- running them ------------------------------------------------------------------------------------------------------------------------------ */

static const scenario_t scenarios[] = {
    {"in order", in_order}, {"taken off", taken_off}, {"once", once}, {"once for all", once_for_all}, {"unloaded", unloaded}, {"told only the number", told_only_the_number},
    {"told rubbish", told_rubbish}, {"put back by signal", put_back_by_signal}, {"crash under plain", crash_under_plain}, {"again and again", again_and_again}, {"many", many},
    {"cancelled", cancelled}, {"cancelled while reading", cancelled_while_reading}, {"small stack", small_stack}, {"crowded", crowded},
};

WELL(test_order, "in order")
WELL(test_taken_off, "taken off")
WELL(test_once, "once")
WELL(test_once_for_all, "once for all")
WELL(test_unloaded, "unloaded")
WELL(test_number_only, "told only the number")
WELL(test_rubbish, "told rubbish")
WELL(test_by_signal, "put back by signal")
WELL(test_again, "again and again")
WELL(test_many, "many")
WELL(test_cancelled, "cancelled")
WELL(test_cancelled_reading, "cancelled while reading")
WELL(test_small_stack, "small stack")
WELL(test_crowded, "crowded")

static void test_crash_under_plain(pf_backend_t backend) {
  ended_t ended;
  run_child("crash under plain", backend, &ended);
  EXPECT_SIGNAL(&ended, SIGSEGV);
}

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_each("handlers are asked from the newest to the first, each once", test_order);
  test_each("the default action takes off what was put over ours", test_taken_off);
  test_each("a handler that wants to be called once is", test_once);
  test_each("and is once when two threads crash at the same moment", test_once_for_all);
  test_each("a handler whose library is gone is passed over", test_unloaded);
  for (pf_backend_t backend = PF_BACKEND_SIGNAL; backend < PF_BACKEND_THREAD; backend++) { /* with backend thread no fault of a page comes to a handler */
    test_on(backend, "a handler that hands on the number only stops nobody for good", test_number_only);
    test_on(backend, "nor does one that leaves anything at all in the other registers", test_rubbish);
  }
  test_each("our handler put back by signal() is made whole", test_by_signal);
  test_each("a crash ends the process although a plain handler ignores it", test_crash_under_plain);
  test_each("somebody who replaces ours again and again disturbs nothing", test_again);
  test_each("a hundred handlers, one after the other", test_many);
  test_each("a thread that is cancelled while it waits goes on until it has the page", test_cancelled);
  if (!SLOW) { /* sanitizers: their own work in a thread that is ended is not ready for it; their frames are larger; their threads are too many */
    test_each("a thread that is cancelled while it reads leaves no page behind", test_cancelled_reading);
    test_each("a fault fits on a small stack for signals", test_small_stack);
    test_each("more threads than there are places", test_crowded);
  }
  return summary();
}
