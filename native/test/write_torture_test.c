/* sanitizers: address,thread,none */
/*
 * The torture of eviction: threads write, the kernel writes (read(2) into the region), a budget of a fraction of the pages evicts and steals back, flushes run
 * all the time, and in every other one every other write fails. Each thread owns a slot in every page and knows what it wrote last; it looks before it writes, and at every other page it
 * only looks: pages leave that nobody has written, and only those could be lost. Moves come a moment late. In the end all of it is flushed, and the store must have
 * every last value.
 *
 *   write_torture_test [async|spans|obvious|fault|mprotect|memfd [seconds]]
 *
 * `spans` has no budget, so that flushes protect many pages at once; in its place a thread releases what is clean, and another asks what is dirty.
 *
 * `obvious` is the order that anybody would write first: ask what was written, move the page away, drop it if it was clean. It loses a write within 0.8 s
 * (40 runs on two busy processors, 0.3 s of CPU time at most; it is given 40), which is the proof that this test can fail. PF_TORTURE_SECONDS makes the others longer.
 */
#define PF_TEST_ORDER
#include "../close.c"
#include "support.h"
#include "uapi.h"

#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>

bool pf_test_obvious_order;

#define PAGES 160
#define BUDGET_PAGES 40
#define WRITERS 3
#define SLOTS (WRITERS + 1) /* the last is the kernel's */
#define KERNEL WRITERS
#define CPU_SECONDS 40 /* how long it is waited for what must happen: of the process's own time, since a busy machine may stop it for long */

static pf_region_t *region;
static uint64_t last[SLOTS][PAGES]; /* what each slot holds, known to its writer */
static _Atomic int stop;
static _Atomic uint64_t writes, kernel_writes, lost, flushes, failed_flushes, injected;
static _Atomic int failing;
static _Atomic int slow_reads;

/* --- a store that fails in every other flush, and is dear to read from ------------------------------------------------------- */

/* Every other write: a flush may wait for a page that waits for room, which another write has to make. */
ssize_t pwrite(int fd, const void *from, size_t len, off_t offset) {
  static _Atomic unsigned calls;
  if (atomic_load(&failing) && atomic_fetch_add(&calls, 1) % 2 == 0) {
    atomic_fetch_add(&injected, 1);
    if (len > PAGE) { /* after a part of it */
      syscall(SYS_pwrite64, fd, from, PAGE, offset);
    }
    errno = EIO;
    return -1;
  }
  return syscall(SYS_pwrite64, fd, from, len, offset);
}

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  uint64_t until = pf_now_ns() + 30000;
  while (atomic_load(&slow_reads) && pf_now_ns() < until) {
  }
  return syscall(SYS_pread64, fd, into, len, offset);
}

/* Every other move is a moment late: whoever writes between the question and the move has the time to. */
int ioctl(int fd, unsigned long request, ...) {
  static _Atomic unsigned moves;
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  if (request == PF_UFFDIO_MOVE && atomic_fetch_add(&moves, 1) % 2 == 0) {
    for (uint64_t until = pf_now_ns() + 20000; pf_now_ns() < until;) {
    }
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

/* --- writers -------------------------------------------------------------------------------------------------------------------- */

static uint64_t offset_of(unsigned slot, uint64_t page) { return page * PAGE + 64 + slot * 512; }

UNWATCHED static uint64_t load_slot(uint64_t offset) { return *(const volatile uint64_t *)(region->base + offset); }
UNWATCHED static void store_slot(uint64_t offset, uint64_t value) { *(volatile uint64_t *)(region->base + offset) = value; }

static void check(unsigned slot, uint64_t page) {
  uint64_t got = load_slot(offset_of(slot, page));
  if (got != last[slot][page]) {
    if (atomic_fetch_add(&lost, 1) < 3) {
      printf("  slot %u of page %llu holds %llu, not %llu\n", slot, (unsigned long long)page, (unsigned long long)got,
             (unsigned long long)last[slot][page]);
    }
    last[slot][page] = got;
  }
}

static void *write_on(void *data) {
  unsigned slot = (unsigned)(uintptr_t)data;
  uint64_t seed = 88172645463325252ULL + slot * 7919;
  while (!atomic_load(&stop)) {
    uint64_t page = random_next(&seed) % 4 == 0 ? random_next(&seed) % PAGES : random_next(&seed) % (PAGES / 3);
    check(slot, page);
    if (random_next(&seed) & 1) { /* only looked at: pages leave that nobody has written */
      continue;
    }
    unsigned burst = 1 + (unsigned)(random_next(&seed) % 64);
    for (unsigned i = 0; i < burst; i++) {
      store_slot(offset_of(slot, page), ++last[slot][page]);
    }
    atomic_fetch_add(&writes, burst);
  }
  return NULL;
}

/* The kernel writes: what it cannot put there (the page is missing, or protected) it must say. */
static void *kernel_on(void *data) {
  int ends[2];
  uint64_t seed = 424242;
  (void)data;
  must(pipe(ends) == 0, "a pipe");
  while (!atomic_load(&stop)) {
    uint64_t page = random_next(&seed) % PAGES, value = last[KERNEL][page] + 1;
    uint64_t offset = offset_of(KERNEL, page);
    check(KERNEL, page);
    must(write(ends[1], &value, sizeof value) == sizeof value, "a write to a pipe");
    ssize_t got = -1;
    for (unsigned tries = 0; got < 0; tries++) {
      got = syscall(SYS_read, ends[0], region->base + offset, sizeof value); /* a race that is meant: sanitizers need not see it */
      if (got < 0) {
        must(errno == EFAULT || errno == EINTR, "read(2) into the region");
        store_slot(offset + 16, tries); /* a touch by write: it is there and open for a moment */
      }
    }
    must(got == sizeof value, "all of it");
    last[KERNEL][page] = value;
    atomic_fetch_add(&kernel_writes, 1);
  }
  close(ends[0]);
  close(ends[1]);
  return NULL;
}

/* --- flushes ---------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_job_t job;
  _Atomic int done;
} flush_t;

static void flush_done(pf_job_t *job) { atomic_store(&((flush_t *)job)->done, 1); }

/* Of a range of pages. */
static pf_code_t flush_pages(uint64_t first, uint64_t end) {
  flush_t flush = {.job = {.region = region, .first = first, .end = end, .kind = PF_JOB_FLUSH, .done = flush_done}};
  must(pf_loader_submit(&flush.job) == 0, "a flush");
  while (!atomic_load(&flush.done)) {
    pf_sleep_until(pf_now_ns() + 100000);
  }
  return flush.job.why.code;
}

static void *flush_on(void *data) {
  uint64_t seed = 1234567;
  (void)data;
  while (!atomic_load(&stop)) {
    uint64_t first = random_next(&seed) % PAGES, end = first + 1 + random_next(&seed) % (PAGES - first);
    atomic_store(&failing, atomic_load(&flushes) % 2 == 1);
    pf_code_t code = flush_pages(first, end);
    atomic_store(&failing, 0);
    atomic_fetch_add(&flushes, 1);
    atomic_fetch_add(&failed_flushes, code == PF_E_WRITE);
    EXPECT(code == PF_OK || code == PF_E_WRITE);
    atomic_store(&slow_reads, (int)(random_next(&seed) & 1)); /* staging comes and goes */
    pf_sleep_until(pf_now_ns() + random_next(&seed) % 2000000);
  }
  return NULL;
}

/* --- instead of eviction -------------------------------------------------------------------------------------------------------- */

static void count_dirty(void *context, uint64_t first, uint64_t end) { *(uint64_t *)context += end - first; }

static void *release_on(void *data) {
  uint64_t seed = 987654321, dirty = 0;
  sigset_t before;
  (void)data;
  pf_mask_signals(&before);
  while (!atomic_load(&stop)) {
    uint64_t first = random_next(&seed) % PAGES, end = first + 1 + random_next(&seed) % (PAGES - first);
    pf_region_release(region, first, end);
    EXPECT_EQ(pf_region_dirty(region, 0, PAGES, count_dirty, &dirty), 0);
    pf_sleep_until(pf_now_ns() + random_next(&seed) % 500000);
  }
  pf_restore_signals(&before);
  return NULL;
}

/* --- one run ------------------------------------------------------------------------------------------------------------------------ */

static int open_store(void) {
  char path[64];
  make_path(path);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  must(fd >= 0 && ftruncate(fd, (off_t)(PAGES * PAGE)) == 0, "a file");
  unlink(path);
  return fd;
}

static void compare_with_store(int fd) {
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      uint64_t value = 0;
      must(syscall(SYS_pread64, fd, &value, sizeof value, (off_t)offset_of(slot, page)) == sizeof value, "a read of the store");
      if (value != last[slot][page] && atomic_fetch_add(&lost, 1) < 3) {
        printf("  the store has %llu in slot %u of page %llu, not %llu\n", (unsigned long long)value, slot, (unsigned long long)page,
               (unsigned long long)last[slot][page]);
      }
    }
  }
}

static void expect_within(pf_budget_t *budget) {
  pf_budget_numbers_t numbers;
  if (budget != NULL) {
    pf_budget_numbers(budget, &numbers);
    EXPECT(numbers.used <= BUDGET_PAGES * PAGE);
  }
}

static uint64_t cpu_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Whether there was anything of each that the torture is made of. */
static bool all_happened(bool bounded) {
  const pf_counters_t *counters = &region->counters;
  return atomic_load(&failed_flushes) > 0 && atomic_load(&injected) > 0 && atomic_load(&kernel_writes) > 0 &&
         (!bounded || (counter(&counters->steals) > 0 && counter(&counters->evictions) > 0 && counter(&counters->write_backs) > 0));
}

static bool goes_on(uint64_t end, bool until_lost, bool bounded) {
  bool had = until_lost ? atomic_load(&lost) > 0 : pf_now_ns() >= end && all_happened(bounded);
  return !had && (cpu_ns() < CPU_SECONDS * 1000000000ULL || (!until_lost && pf_now_ns() < end));
}

static void print_numbers(void) {
  printf("  %llu writes, %llu by the kernel, %llu evictions, %llu written back, %llu steals, %llu flushes, %llu failed, %llu failures injected, %llu lost, "
         "%.2f s of CPU time\n",
         (unsigned long long)atomic_load(&writes), (unsigned long long)atomic_load(&kernel_writes),
         (unsigned long long)counter(&region->counters.evictions), (unsigned long long)counter(&region->counters.write_backs),
         (unsigned long long)counter(&region->counters.steals), (unsigned long long)atomic_load(&flushes),
         (unsigned long long)atomic_load(&failed_flushes), (unsigned long long)atomic_load(&injected), (unsigned long long)atomic_load(&lost),
         (double)cpu_ns() / 1e9);
}

static void torture(pf_backend_t backend, double seconds, bool until_lost, bool bounded) {
  pf_budget_t *budget = NULL;
  must(!bounded || pf_budget_create(BUDGET_PAGES * PAGE, &budget) == 0, "a budget");
  int fd = open_store();
  pf_source_t source = {.kind = PF_SOURCE_FILE, .fd = dup(fd), .path = strdup("torture")};
  region = open_region(backend, source, PAGES * PAGE, OPTIONS(.budget = budget, .writable = true, .readahead = 0));
  pthread_t threads[WRITERS + 3];
  unsigned count = bounded ? WRITERS + 2 : WRITERS + 3;
  for (unsigned i = 0; i < WRITERS; i++) {
    must(pthread_create(&threads[i], NULL, write_on, (void *)(uintptr_t)i) == 0, "a thread");
  }
  must(pthread_create(&threads[WRITERS], NULL, kernel_on, NULL) == 0, "a thread");
  must(pthread_create(&threads[WRITERS + 1], NULL, flush_on, NULL) == 0, "a thread");
  must(bounded || pthread_create(&threads[WRITERS + 2], NULL, release_on, NULL) == 0, "a thread");
  uint64_t end = pf_now_ns() + (uint64_t)(seconds * 1e9);
  while (goes_on(end, until_lost, bounded)) {
    pf_sleep_until(pf_now_ns() + 10 * MS);
    expect_within(budget);
  }
  atomic_store(&stop, 1);
  for (unsigned i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(flush_pages(0, PAGES), PF_OK);
  uint64_t dirty = 0;
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_region_dirty(region, 0, PAGES, count_dirty, &dirty), 0);
  pf_restore_signals(&before);
  EXPECT_EQ(dirty, 0);
  compare_with_store(fd);
  print_numbers();
  EXPECT(until_lost || all_happened(bounded));
  EXPECT(close_region(region));
  if (bounded) {
    pf_budget_drop(budget);
  }
  close(fd);
}

/* --- which run ---------------------------------------------------------------------------------------------------------------------- */

static double seconds_of(char **arguments) {
  const char *wanted = arguments[2] != NULL ? arguments[2] : getenv("PF_TORTURE_SECONDS");
  return wanted != NULL ? atof(wanted) : SLOW ? 4 : 6;
}

static int run_mode(char **arguments) {
  const char *mode = arguments[1];
  double seconds = seconds_of(arguments) / (strcmp(mode, "spans") == 0 && arguments[2] == NULL ? 2 : 1);
  snprintf(current_test, sizeof current_test, "torture, %s", mode);
  if (strcmp(mode, "obvious") == 0) {
    pf_test_obvious_order = true;
    torture(PF_BACKEND_SIGNAL, 0, true, true);
    printf("%s\n", atomic_load(&lost) > 0 ? "lost, as it must" : "lost nothing: the test is blind");
    return atomic_load(&lost) > 0 ? 0 : 1;
  }
  bool memfd = strcmp(mode, "memfd") == 0, spans = strcmp(mode, "spans") == 0;
  torture(memfd ? PF_BACKEND_MEMFD : strcmp(mode, "mprotect") == 0 ? PF_BACKEND_MPROTECT : PF_BACKEND_SIGNAL, seconds, false, !spans);
  pf_track_t wanted = spans || strcmp(mode, "async") == 0 ? PF_TRACK_ASYNC : PF_TRACK_FAULT;
  EXPECT_EQ(region->track, wanted);
  EXPECT_EQ(atomic_load(&lost), 0);
  return atomic_load(&unmet) == 0 ? 0 : 1;
}

/* Features are looked for once a process, so each run is one. */
static void run_in_child(char **arguments, const char *mode, const char *without) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    setenv("PAGEFAULT_WITHOUT", without, 1);
    execl("/proc/self/exe", arguments[0], mode, (char *)NULL);
    _exit(127);
  }
  int status = 0;
  must(child > 0 && waitpid(child, &status, 0) == child, "a child");
  bool fine = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  tests_passed += fine;
  tests_failed += !fine;
  if (!fine) {
    printf("failed: torture, %s (status %x)\n", mode, status);
  }
}

int main(int count, char **arguments) {
  if (count > 1) {
    return run_mode(arguments);
  }
  pf_uffd_probe_t probe;
  pf_uffd_probe(&probe);
  if (probe.user_mode_errno == 0) {
    if (pf_own_uffd_start(PF_OWN_ASYNC) == 0 && pf_own_uffd_tracks(PF_OWN_ASYNC)) {
      run_in_child(arguments, "async", "");
      run_in_child(arguments, "spans", "");
      if (!SLOW) {
        run_in_child(arguments, "obvious", "");
      }
    }
    run_in_child(arguments, "fault", "wp_async");
    run_in_child(arguments, "memfd", "");
  }
  run_in_child(arguments, "mprotect", "");
  return summary();
}
