/* sanitizers: address,thread,none */
/*
 * Backend 'thread': every system call of the service threads fails (reading their userfaultfd, waiting for it, waking
 * who waits, the read that takes what the page cache has), once, often, or all the time, with each errno that it can
 * have. None of them is a reason to fail a page: each comes in the end, whole, for a raw touch and for a system call;
 * no write is lost; nobody waits for ever, and nobody spins. The calls are this program's own symbols, which go before
 * the C library's.
 */
#include "write_support.h"

#include "inject.h"
#include "players.h"

#include <sys/ioctl.h>
#include <sys/resource.h>

typedef enum { READ, POLL, WAKE, PREADV, CALLS } call_t;

#define PART 2000    /* half of it was read */
#define NOTHING 3000 /* 0 */

static const injected_t injected_calls[CALLS] = {
    [READ] = {"read", {EINTR, EAGAIN, EINVAL, EFAULT, ENOMEM}},
    [POLL] = {"poll", {EINTR, EINVAL, ENOMEM, EFAULT}},
    [WAKE] = {"UFFDIO_WAKE", {EINVAL, EFAULT}},
    [PREADV] = {"preadv2", {EAGAIN, EINTR, EIO, ENOMEM, EOPNOTSUPP, ENOSYS, EINVAL, PART, NOTHING}},
};

static _Atomic unsigned polls;

static bool is_served(int fd) {
  return fd >= 0 && (fd == pf_own_uffd_descriptor(PF_OWN_SERVED_ASYNC) || fd == pf_own_uffd_descriptor(PF_OWN_SERVED_SYNC));
}

ssize_t read(int fd, void *into, size_t len) {
  int how = is_served(fd) ? must_fail(READ) : 0;
  return how != 0 ? fail(how) : syscall(SYS_read, fd, into, len);
}

int poll(struct pollfd *list, nfds_t count, int timeout_ms) {
  struct pollfd *volatile first = list; /* its declaration tells compilers that nothing is read from there */
  bool ours = count == 1 && is_served(first->fd);
  int how = ours ? must_fail(POLL) : 0;
  struct timespec left = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  atomic_fetch_add(&polls, ours);
  return how != 0 ? fail(how) : (int)syscall(SYS_ppoll, list, count, timeout_ms < 0 ? NULL : &left, NULL, 0);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  int how = request == PF_UFFDIO_WAKE ? must_fail(WAKE) : 0;
  return how != 0 ? fail(how) : (int)syscall(SYS_ioctl, fd, request, argument);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  int how = must_fail(PREADV);
  if (how == PART) {
    return syscall(SYS_pread64, fd, parts->iov_base, (parts->iov_len + 1) / 2, offset);
  }
  return how == NOTHING ? 0 : how != 0 ? fail(how) : syscall(SYS_preadv2, fd, parts, count, offset, 0L, flags);
}

/* --- a scenario that makes every call -------------------------------------------------------------------------------------------- */

#define PAGES 48
#define BUDGET 12
#define SLOTS 3 /* one for each thread */
#define SLOT(slot) (100 + (slot) * 300)

typedef struct {
  pf_region_t *region;
  pf_budget_t *budget;
  int fd, out; /* the store; where system calls write to, and read from */
  uint8_t model[SLOTS][PAGES];
} stage_t;

static char plan[PF_NAME_MAX];

static stage_t *open_stage(void) {
  stage_t *stage = calloc(1, sizeof *stage);
  must(stage != NULL && pf_budget_create(BUDGET * PAGE, &stage->budget) == 0, "a budget");
  stage->out = memfd_create("out", MFD_CLOEXEC);
  must(stage->out >= 0 && ftruncate(stage->out, (off_t)(SLOTS * PAGE)) == 0, "a file");
  stage->region = open_region(the_backend, writable_file(PAGES * PAGE, &stage->fd), PAGES * PAGE,
                              OPTIONS(.budget = stage->budget, .writable = true, .readahead = -1, .name = plan));
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      stage->model[slot][page] = pattern(page * PAGE + SLOT(slot));
    }
  }
  return stage;
}

/* The kernel reads the page, and writes it, as it does for fs.write and fs.read. */
UNWATCHED static void send_page(stage_t *stage, unsigned slot, uint64_t page) {
  TOUCHING();
  EXPECT_EQ(syscall(SYS_pwrite64, stage->out, stage->region->base + page * PAGE, PAGE, slot * PAGE), PAGE);
  TOUCHED();
  EXPECT_EQ(stored_byte(stage->out, slot * PAGE + SLOT(slot)), stage->model[slot][page]);
}

UNWATCHED static void fetch_byte(stage_t *stage, unsigned slot, uint64_t page, uint8_t value) {
  must(syscall(SYS_pwrite64, stage->out, &value, 1, slot * PAGE) == 1, "a byte");
  TOUCHING();
  EXPECT_EQ(syscall(SYS_pread64, stage->out, stage->region->base + page * PAGE + SLOT(slot), 1, slot * PAGE), 1);
  TOUCHED();
  stage->model[slot][page] = value;
}

static void play(stage_t *stage, unsigned slot, uint64_t seed, int steps) {
  pf_region_t *region = stage->region;
  for (int i = 0; i < steps; i++) {
    uint64_t page = random_next(&seed) % PAGES;
    uint8_t value = (uint8_t)random_next(&seed);
    switch (random_next(&seed) % 8) {
      case 0:
      case 1:
        send_page(stage, slot, page);
        break;
      case 2:
        fetch_byte(stage, slot, page, value);
        break;
      case 3:
        EXPECT_EQ(flush_pages(region, page, page + 1), PF_OK);
        break;
      case 4:
        stage_page(region, page);
        break;
      case 5:
        poke(region, page * PAGE + SLOT(slot), value);
        stage->model[slot][page] = value;
        break;
      default:
        EXPECT_EQ(touch(region, page * PAGE + SLOT(slot)), stage->model[slot][page]);
    }
  }
}

static void close_stage(stage_t *stage) {
  pf_region_t *region = stage->region;
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      EXPECT_EQ(touch(region, page * PAGE + SLOT(slot)), stage->model[slot][page]);
    }
  }
  EXPECT_EQ(flush_all(region), PF_OK);
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      EXPECT_EQ(stored_byte(stage->fd, page * PAGE + SLOT(slot)), stage->model[slot][page]);
    }
  }
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  pf_budget_drop(stage->budget);
  close(stage->fd);
  close(stage->out);
  free(stage);
}

static bool has_failed(void *unused) {
  (void)unused;
  return atomic_load(&injected) > 0;
}

static void each_call_once(void) {
  unsigned descriptors = 0;
  for (int call = 0; call < CALLS; call++) {
    for (int which = 0; which < HOWS && injected_calls[call].how[which] != 0; which++) {
      for (int after = 0; after < 12; after += 1 + after) {
        snprintf(plan, sizeof plan, "%s number %d said %d", injected_calls[call].name, after, injected_calls[call].how[which]);
        stage_t *stage = open_stage();
        int before = atomic_load(&unmet);
        arm(call, 0, after, injected_calls[call].how[which]);
        play(stage, 0, 11 + (uint64_t)after, 25);
        EXPECT(after > 0 || wait_until(has_failed, NULL, LONG_MS)); /* a service thread goes to sleep when it has looked for a while */
        disarm();
        close_stage(stage);
        unsigned now = count_descriptors() - pf_os_descriptors();
        EXPECT_EQ(now, descriptors == 0 ? now : descriptors);
        descriptors = now;
        if (atomic_load(&unmet) != before) {
          printf("  after %s\n", plan);
        }
      }
    }
  }
}

static void play_slot(void *stage, unsigned slot, uint64_t seed) { play(stage, slot, seed, SLOW ? 40 : 150); }

/* `odds` 1: all the time. `how` 0: in any way. */
static void under_threads(int call, unsigned odds, int how) {
  uint64_t seed = pf_now_ns() | 1;
  stage_t *stage = open_stage();
  int before = atomic_load(&unmet);
  snprintf(plan, sizeof plan, "seed %llu", (unsigned long long)seed);
  atomic_store(&dice, seed);
  arm(call, odds, 0, how);
  play_together(SLOTS, play_slot, stage, &seed);
  /* A service thread that was busy all the time has hardly ever gone to sleep. */
  for (uint64_t end = pf_now_ns() + LONG_MS * MS; !has_failed(NULL) && pf_now_ns() < end; pf_sleep_until(pf_now_ns() + MS)) {
    stage_page(stage->region, 0);
    EXPECT_EQ(touch(stage->region, SLOT(0)), stage->model[0][0]);
  }
  EXPECT(has_failed(NULL));
  disarm();
  close_stage(stage);
  if (atomic_load(&unmet) != before) {
    printf("  after %s said %d, one in %u, %s\n", call < 0 ? "any" : injected_calls[call].name, how, odds, plan);
  }
}

static void each_call_often(void) {
  for (int call = 0; call < CALLS; call++) {
    for (int which = 0; which < HOWS && injected_calls[call].how[which] != 0; which++) {
      under_threads(call, 2, injected_calls[call].how[which]);
    }
  }
}

/* What a page can do without. */
static void always(void) {
  for (int call = POLL; call <= PREADV; call += PREADV - POLL) {
    for (int which = 0; which < HOWS && injected_calls[call].how[which] != 0; which++) {
      int how = injected_calls[call].how[which];
      if (how != PART) { /* half of a page is never all of it, but half of what is left comes near: that is each_call_often's */
        under_threads(call, 1, how);
      }
    }
  }
}

static void at_random(void) {
  for (int round = 0; round < 6; round++) {
    under_threads(-1, 4, 0);
  }
}

static bool has_looked(void *before) { return atomic_load(&polls) > *(unsigned *)before; }

/* A sandbox takes descriptors away from a process altogether, and poll(2) refuses to wait for one: faults are served
 * all the same, and an idle service thread does not take a CPU for itself. */
static void no_descriptors(void) {
  struct rlimit limit, none;
  stage_t *stage = open_stage();
  must(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
  none = limit;
  none.rlim_cur = 0;
  EXPECT_EQ(touch(stage->region, SLOT(0)), stage->model[0][0]);
  must(setrlimit(RLIMIT_NOFILE, &none) == 0, "setrlimit");
  struct pollfd one = {.fd = stage->out, .events = POLLIN};
  EXPECT(poll(&one, 1, 0) < 0 && errno == EINVAL);
  play(stage, 0, 77, 60);
  unsigned before = atomic_load(&polls);
  uint64_t started = pf_now_ns();
  pf_sleep_until(started + 300 * MS);
  EXPECT(wait_until(has_looked, &before, LONG_MS));
  EXPECT(atomic_load(&polls) - before <= 2 * (pf_now_ns() - started) / MS + 50);
  must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
  close_stage(stage);
}

/* ------------------------------------------------------------------------------------------------------------------------------------ */

static void all(void) {
  if (the_backend == PF_BACKEND_THREAD) {
    test_here("whatever call of a service thread fails once, pages come and no write is lost", each_call_once);
    test_here("whatever call of a service thread fails often, too", each_call_often);
    test_here("and whatever a service thread can do without", always);
    test_here("and whatever fails at random", at_random);
    test_here("where a process may have no descriptors, faults are served and nobody spins", no_descriptors);
  }
}

static void no_child(const char *name) { (void)name; }

int main(int count, char **arguments) { return run_modes(count, arguments, all, no_child); }
