/* sanitizers: address,none */
/*
 * Forked children, and their parents: what a child may see of a segment (nothing), how it ends, and that the parent goes on as if it had never forked. Not under
 * ThreadSanitizer, which cannot fork a process that has threads.
 */
#include "support.h"

#include <sched.h>

typedef enum { FORK, CLONE, GRANDCHILD } kind_t;
static const kind_t kinds[] = {FORK, CLONE, GRANDCHILD};

#define ENDED_WELL 77

/* A child made in one of the ways: by the C library, past it, by a child. */
static pid_t make_child(kind_t kind) {
  pid_t child = kind == CLONE ? (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, 0, 0, 0, 0) : fork();
  must(child >= 0, "fork");
  if (child == 0) {
    alarm(patience(20));
  }
  if (child == 0 && kind == GRANDCHILD) {
    pid_t grandchild = fork();
    int status;
    if (grandchild != 0) {
      waitpid(grandchild, &status, 0);
      if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
      }
      _exit(WEXITSTATUS(status));
    }
  }
  return child;
}

/* How it ended, with what it said on stderr. */
typedef struct {
  int status;
  char text[4096];
} child_t;

static void in_child(kind_t kind, void (*body)(void *), void *data, child_t *out) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  pid_t child = make_child(kind);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    for (int signal_number = 1; signal_number < NSIG; signal_number++) {
      if (signal_number != SIGSEGV && signal_number != SIGBUS) {
        signal(signal_number, SIG_DFL);
      }
    }
    body(data);
    _exit(ENDED_WELL);
  }
  close(ends[1]);
  size_t len = 0;
  for (ssize_t n; len < sizeof out->text - 1 && (n = read(ends[0], out->text + len, sizeof out->text - 1 - len)) > 0;) {
    len += (size_t)n;
  }
  out->text[len] = '\0';
  close(ends[0]);
  must(waitpid(child, &out->status, 0) == child, "waitpid");
}

/* AddressSanitizer has handlers of its own beneath ours; SIG_DFL is what we hand over to. */
static void default_actions(void) {
  signal(SIGSEGV, SIG_DFL);
  signal(SIGBUS, SIG_DFL);
}

static void expect_dead(const child_t *child, const char *where) {
  EXPECT(WIFSIGNALED(child->status));
  EXPECT_EQ(WIFSIGNALED(child->status) ? WTERMSIG(child->status) : -1, SIGSEGV);
  EXPECT(strstr(child->text, "a forked child touched a segment of its parent") != NULL);
  EXPECT(strstr(child->text, where) != NULL);
}

/* --- touching ------------------------------------------------------------------------------------------------------------ */

UNWATCHED static void touch_it(void *addr) { touch_address(addr); }
UNWATCHED static void write_it(void *addr) { *(volatile uint8_t *)addr = 1; }

/* A page that is there, one that is not, one that was written, one that is staged. */
static void touching(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(256 * PAGE), 256 * PAGE, OPTIONS(.writable = true, .budget = budget, .name = "the one"));
  EXPECT_EQ(touch(region, 200 * PAGE), pattern(200 * PAGE));
  write_it(region->base + 201 * PAGE);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    uint64_t pages[] = {200, 100, 201};
    for (size_t k = 0; k < sizeof pages / sizeof *pages; k++) {
      child_t child;
      char where[64];
      snprintf(where, sizeof where, "offset:  %llu\n", (unsigned long long)(pages[k] * PAGE));
      in_child(kinds[i], touch_it, region->base + pages[k] * PAGE, &child);
      expect_dead(&child, where);
      EXPECT(strstr(child.text, "segment: the one\n") != NULL);
      in_child(kinds[i], write_it, region->base + pages[k] * PAGE, &child);
      expect_dead(&child, where);
    }
  }
  EXPECT_EQ(touch(region, 100 * PAGE), pattern(100 * PAGE));
  EXPECT_EQ(touch(region, 201 * PAGE), 1);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* --- memory of the child's own ----------------------------------------------------------------------------------------------- */

/* Takes all the addresses that the kernel gives, in pieces as large as the segment: none of them may be the segment's. */
UNWATCHED static void map_and_touch(void *data) {
  pf_region_t *const *region = data;
  for (int i = 0; i < 64; i++) {
    mmap(NULL, (*region)->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  touch_address((*region)->base + PAGE);
}

static void mapping_over(pf_backend_t backend) {
  pf_region_t *regions[3];
  for (size_t i = 0; i < 3; i++) {
    regions[i] = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS());
    EXPECT_EQ(touch(regions[i], PAGE), pattern(PAGE));
  }
  static pf_region_t *given; /* the struct is not there in the child */
  for (size_t i = 0; i < 3; i++) {
    static struct pf_region copy;
    copy = (struct pf_region){.base = regions[i]->base, .length = regions[i]->length};
    given = &copy;
    child_t child;
    in_child(FORK, map_and_touch, &given, &child);
    expect_dead(&child, "segment: tested");
  }
  for (size_t i = 0; i < 3; i++) {
    EXPECT(close_region(regions[i]));
  }
}

/* --- a child that shares the memory -------------------------------------------------------------------------------------------- */

static char child_stack[262144];
static pf_region_t *seen_by_child;
static int byte_of_child;

UNWATCHED static int touch_as_shared(void *unused) {
  (void)unused;
  byte_of_child = touch_address(seen_by_child->base + 5 * PAGE);
  return byte_of_child == pattern(5 * PAGE) ? ENDED_WELL : 1;
}

static void sharing(pf_backend_t backend) {
  test_store_t store = {0};
  start_store(&store);
  pf_region_t *region = seen_by_child = open_region(backend, pager_source(&store), 64 * PAGE, OPTIONS());
  pid_t child = clone(touch_as_shared, child_stack + sizeof child_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
  must(child > 0, "clone");
  int status;
  must(waitpid(child, &status, 0) == child, "waitpid");
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == ENDED_WELL);
  EXPECT_EQ(state_of(region, 5), PF_PRESENT);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- the parent ------------------------------------------------------------------------------------------------------------------- */

static void wait_for_end(void *data) {
  char byte;
  ssize_t ignored = read(*(int *)data, &byte, 1);
  (void)ignored;
}

/* A child that lives on holds no page: eviction in the parent goes on by moving. */
static void evicting(pf_backend_t backend) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  for (int into = 0; into < 2; into++) {
    uint64_t len = 256 * PAGE;
    uint8_t *given = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(given != MAP_FAILED, "mmap");
    pf_budget_t *budget;
    must(pf_budget_create(32 * PAGE, &budget) == 0, "a budget");
    pf_region_options_t options = OPTIONS(.writable = true, .budget = budget);
    if (into) {
      options.into = given;
      options.into_length = len;
      options.shared = true;
    }
    pf_region_t *region = open_region(backend, memory_source(len), len, options);
    for (uint64_t page = 0; page < 8; page++) {
      write_it(region->base + page * PAGE + 1);
    }
    pid_t child = make_child(FORK);
    if (child == 0) {
      close(ends[1]);
      wait_for_end(&ends[0]);
      _exit(0);
    }
    for (int round = 0; round < 3; round++) {
      for (uint64_t page = 8; page < 256; page++) {
        EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
      }
      for (uint64_t page = 0; page < 8; page++) {
        EXPECT_EQ(touch(region, page * PAGE + 1), 1);
        EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
      }
    }
    EXPECT(counter(&region->counters.evictions) > 256);
    pf_budget_numbers_t numbers;
    pf_budget_numbers(budget, &numbers);
    EXPECT(numbers.used <= 32 * PAGE);
    EXPECT_EQ(counter(&region->counters.write_failures), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close_region(region);
    pf_budget_drop(budget);
  }
  close(ends[0]);
  close(ends[1]);
}

typedef struct {
  pf_region_t *region;
  uint64_t seed;
  _Atomic bool *stop;
  uint64_t wrong;
} toucher_t;

static void *touch_on(void *data) {
  toucher_t *toucher = data;
  while (!atomic_load(toucher->stop)) {
    uint64_t offset = random_next(&toucher->seed) % (512 * PAGE);
    toucher->wrong += touch(toucher->region, offset) != pattern(offset);
  }
  return NULL;
}

/* Whatever eight threads were in the middle of, and whatever locks they had: the child ends at once. */
static void while_faulting(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(512 * PAGE), 512 * PAGE, OPTIONS(.budget = budget, .readahead = -1));
  _Atomic bool stop = false;
  toucher_t touchers[8];
  pthread_t threads[8];
  for (size_t i = 0; i < 8; i++) {
    touchers[i] = (toucher_t){.region = region, .seed = i + 1, .stop = &stop};
    must(pthread_create(&threads[i], NULL, touch_on, &touchers[i]) == 0, "a thread");
  }
  for (uint64_t i = 0; i < (SLOW ? 20 : 60); i++) {
    child_t child;
    in_child(kinds[i % 3], i % 2 == 0 ? touch_it : write_it, region->base + i * PAGE, &child);
    expect_dead(&child, "segment: tested");
  }
  atomic_store(&stop, true);
  for (size_t i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
    EXPECT_EQ(touchers[i].wrong, 0);
  }
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* Segments come and go in the moment of the fork: the child finds its way through whatever it finds. */
static void *open_and_close(void *data) {
  _Atomic bool *stop = data;
  while (!atomic_load(stop)) {
    pf_region_t *regions[4];
    for (size_t i = 0; i < 4; i++) {
      regions[i] = open_region(PF_BACKEND_MPROTECT, zero_source(), (1 + i) * PAGE, OPTIONS());
    }
    for (size_t i = 0; i < 4; i++) {
      close_region(regions[i]);
    }
  }
  return NULL;
}

static void while_opening(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS());
  _Atomic bool stop = false;
  pthread_t thread;
  must(pthread_create(&thread, NULL, open_and_close, &stop) == 0, "a thread");
  for (uint64_t i = 0; i < (SLOW ? 20 : 100); i++) {
    child_t child;
    in_child(kinds[i % 3], touch_it, region->base + PAGE, &child);
    expect_dead(&child, "");
  }
  atomic_store(&stop, true);
  pthread_join(thread, NULL);
  EXPECT(close_region(region));
}

/* --- attempts ------------------------------------------------------------------------------------------------------------------------ */

static void in_attempt(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS());
  must(pf_attempt_begin() == 0, "an attempt");
  child_t child;
  in_child(FORK, touch_it, region->base + PAGE, &child);
  pf_failure_t failure;
  EXPECT(!pf_attempt_end(&failure));
  expect_dead(&child, "segment: tested");
  EXPECT(close_region(region));
}

/* --- what is not ours -------------------------------------------------------------------------------------------------------------------- */

static void touch_nothing(void *unused) {
  (void)unused;
  touch_address((uint8_t *)(uintptr_t)12345);
}

static void foreign(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS());
  child_t child;
  in_child(FORK, touch_nothing, NULL, &child);
  EXPECT(WIFSIGNALED(child.status) && WTERMSIG(child.status) == SIGSEGV);
  EXPECT(strstr(child.text, "pagefault") == NULL);
  EXPECT(close_region(region));
}

int main(void) {
  default_actions();
  test_each("a forked child that touches a segment ends with a report", touching);
  test_each("memory that a forked child maps is never where a segment was", mapping_over);
  test_each("a child that shares the memory is served", sharing);
  test_each("eviction goes on while a child lives, in segments and in memory that exists", evicting);
  test_each("a fork while eight threads fault", while_faulting);
  test_each("a fork while segments come and go", while_opening);
  test_each("a fork inside attempt()", in_attempt);
  test_each("a fault of the child's own is the child's", foreign);
  return summary();
}
