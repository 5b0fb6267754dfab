/* sanitizers: address,thread,none */
/*
 * Every system call by which writes are noticed, kept or stored fails, once or at random, in every plausible way: also a MOVE that has moved pages and says that it has not,
 * a write that wrote a part, a drop that stops half-way (locked memory). No write is lost, nothing hangs, everything can be written in the end, and no page is
 * left that eviction does not find. The calls are this program's own symbols, which go before the C library's.
 */
#include "write_support.h"

#include "inject.h"
#include "players.h"

#include <sys/ioctl.h>
#include <sys/prctl.h>

/* --- which call fails, and how -------------------------------------------------------------------------------------------------- */

typedef enum { MOVE, PROTECT, SCAN, ARM, COPY, ZERO, CONTINUE, PWRITE, SYNC, MPROTECT, MADVISE, CALLS } call_t;

#define DONE 1000 /* all of it was done, and still it says so */
#define PART 2000 /* a part was done */

static const injected_t injected_calls[CALLS] = {
    [MOVE] = {"UFFDIO_MOVE", {EAGAIN, EBUSY, EEXIST, ENOMEM, DONE + EEXIST, PART + EEXIST, DONE + EAGAIN, PART + EAGAIN, ENOENT}},
    [PROTECT] = {"UFFDIO_WRITEPROTECT", {EAGAIN, ENOMEM, PART + ENOMEM}},
    [SCAN] = {"PAGEMAP_SCAN", {ENOMEM, EINTR, EFAULT}},
    [ARM] = {"PAGEMAP_SCAN that protects", {ENOMEM, EFAULT, DONE + EFAULT}},
    [COPY] = {"UFFDIO_COPY", {ENOMEM, EAGAIN}},
    [ZERO] = {"UFFDIO_ZEROPAGE", {ENOMEM, EAGAIN}},
    [CONTINUE] = {"UFFDIO_CONTINUE", {ENOMEM, EAGAIN}},
    [PWRITE] = {"pwrite", {EIO, EINTR, ENOSPC, EDQUOT, EFBIG, PART + EIO, PART + ENOSPC, PART}},
    [SYNC] = {"fdatasync", {EIO, ENOSPC, EINTR}},
    [MPROTECT] = {"mprotect", {ENOMEM}},
    [MADVISE] = {"madvise", {EAGAIN, ENOMEM, EINTR, EINVAL}},
};

/* What a test wants to happen in between. */
static void (*_Atomic before_madvise)(void *addr, size_t len, int advice);
static void (*_Atomic before_mprotect)(void *addr, size_t len, int prot);

typedef struct {
  uint64_t dst, src, len, mode;
  int64_t move;
} move_t;

static int fail_move(int fd, unsigned long request, move_t *move, int how) {
  uint64_t whole = move->len;
  bool some = how >= PART, all = !some && how >= DONE;
  move->move = 0;
  if (some) {
    move->len = whole / PAGE / 2 * PAGE;
  }
  if ((all || some) && move->len > 0) {
    syscall(SYS_ioctl, fd, request, move);
  }
  bool honest = how == PART + EAGAIN && move->move > 0; /* as the kernel says it where all is well */
  move->move = honest ? move->move : -(how % DONE);
  move->len = whole;
  return fail(how % DONE);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  static const call_t calls[] = {[3] = COPY, [4] = ZERO, [5] = MOVE, [6] = PROTECT, [7] = CONTINUE};
  unsigned type = request >> 8 & 0xff, number = request & 0xff;
  bool uffd = type == 0xaa && number >= 3 && number <= 7, scan = type == 'f' && number == 16;
  bool arms = scan && (((struct pf_pm_scan_arg *)argument)->flags & PF_PM_SCAN_WP_MATCHING);
  int how = uffd ? must_fail(calls[number]) : scan ? must_fail(arms ? ARM : SCAN) : 0;
  if (how == 0) {
    return (int)syscall(SYS_ioctl, fd, request, argument);
  }
  if (uffd && calls[number] == MOVE) {
    return fail_move(fd, request, argument, how);
  }
  if (uffd && calls[number] == PROTECT && how >= PART) { /* all of it but the last page */
    uint64_t *range = argument;
    range[1] -= PAGE;
    if (range[1] > 0) {
      syscall(SYS_ioctl, fd, request, argument);
    }
  }
  if (arms && how >= DONE) {
    syscall(SYS_ioctl, fd, request, argument);
  }
  return fail(how % DONE);
}

int mprotect(void *addr, size_t len, int prot) {
  int how = must_fail(MPROTECT);
  void (*hook)(void *, size_t, int) = atomic_load(&before_mprotect);
  if (hook != NULL) {
    hook(addr, len, prot);
  }
  return how != 0 ? fail(how) : (int)syscall(SYS_mprotect, addr, len, prot);
}

int madvise(void *addr, size_t len, int advice) {
  int how = advice == MADV_DONTNEED ? must_fail(MADVISE) : 0;
  void (*hook)(void *, size_t, int) = atomic_load(&before_madvise);
  if (hook != NULL) {
    hook(addr, len, advice);
  }
  return how != 0 ? fail(how) : (int)syscall(SYS_madvise, addr, len, advice);
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t offset) {
  int how = must_fail(PWRITE);
  if (how >= PART) {
    len = how == PART ? (len + 1) / 2 : len / 2;
    ssize_t wrote = len > 0 ? syscall(SYS_pwrite64, fd, from, len, offset) : 0;
    return how == PART ? wrote : fail(how - PART);
  }
  return how != 0 ? fail(how) : syscall(SYS_pwrite64, fd, from, len, offset);
}

int fdatasync(int fd) {
  (void)fd;
  int how = must_fail(SYNC);
  return how != 0 ? fail(how) : 0;
}

static _Atomic int mincore_says_no;

int mincore(void *addr, size_t len, unsigned char *out) {
  int err = (int)syscall(SYS_mincore, addr, len, out);
  if (atomic_load(&mincore_says_no)) {
    memset(out, 0, (len + PAGE - 1) / PAGE);
  }
  return err;
}

/* --- a scenario that makes every call ------------------------------------------------------------------------------------------------ */

#define PAGES 48
#define BALLAST 40 /* pages behind those, touched in the end */
#define BUDGET 16
#define SLOTS 3 /* one for each thread */
#define SLOT(slot) (100 + (slot) * 300)

typedef struct {
  pf_region_t *region;
  pf_budget_t *budget;
  int fd;
  uint8_t model[SLOTS][PAGES];
  _Atomic uint64_t denied;
} stage_t;

static char plan[PF_NAME_MAX] = "no plan";

static stage_t *open_stage(void) {
  stage_t *stage = calloc(1, sizeof *stage);
  must(stage != NULL && pf_budget_create(BUDGET * PAGE, &stage->budget) == 0, "a budget");
  uint64_t len = (PAGES + BALLAST) * PAGE;
  stage->region = open_region(the_backend, writable_file(len, &stage->fd), len,
                              OPTIONS(.budget = stage->budget, .writable = true, .readahead = -1, .timeout_ms = 80, .name = plan));
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      stage->model[slot][page] = pattern(page * PAGE + SLOT(slot));
    }
  }
  return stage;
}

/* Raw accesses that may fail: then they are told of, and what was written went nowhere. */
static void check_slot(stage_t *stage, unsigned slot, uint64_t page) {
  pf_failure_t failure;
  EXPECT_EQ(pf_attempt_begin(), 0);
  uint8_t byte = touch(stage->region, page * PAGE + SLOT(slot));
  if (pf_attempt_end(&failure)) {
    atomic_fetch_add(&stage->denied, 1);
  } else {
    EXPECT_EQ(byte, stage->model[slot][page]);
  }
}

static void write_slot(stage_t *stage, unsigned slot, uint64_t page, uint8_t value, bool checked) {
  pf_failure_t failure;
  uint64_t at = page * PAGE + SLOT(slot);
  bool written;
  if (checked) {
    written = copy_in(stage->region, at, &value, 1) == PF_OK;
  } else {
    EXPECT_EQ(pf_attempt_begin(), 0);
    poke(stage->region, at, value);
    written = !pf_attempt_end(&failure);
  }
  if (written) {
    stage->model[slot][page] = value;
  } else {
    atomic_fetch_add(&stage->denied, 1);
  }
}

static void play(stage_t *stage, unsigned slot, uint64_t seed, int steps) {
  pf_region_t *region = stage->region;
  for (int i = 0; i < steps; i++) {
    uint64_t page = random_next(&seed) % PAGES, end = page + 1 + random_next(&seed) % 8;
    end = end < PAGES ? end : PAGES;
    switch (random_next(&seed) % 12) {
      case 0:
        release(region, page, end);
        break;
      case 1:
        invalidate(region, page, end);
        break;
      case 2:
        reset_detection(region, page, end);
        break;
      case 3:
      case 4:
        flush_pages(region, page, end);
        break;
      case 5:
        stage_page(region, page);
        break;
      case 6: {
        sigset_t before;
        pf_mask_signals(&before);
        int pinned = pf_pin_add(region, page, page + 1);
        pf_restore_signals(&before);
        if (pinned == 0) {
          write_slot(stage, slot, page, (uint8_t)random_next(&seed), true);
          pf_mask_signals(&before);
          pf_pin_remove(region, page, page + 1);
          pf_restore_signals(&before);
        }
        break;
      }
      case 7:
        for (; page < end; page++) {
          check_slot(stage, slot, page);
        }
        break;
      default:
        for (; page < end; page++) {
          check_slot(stage, slot, page);
          write_slot(stage, slot, page, (uint8_t)random_next(&seed), random_next(&seed) % 3 == 0);
        }
    }
  }
}

/* Eviction has found every page but those touched last, and all numbers agree. Not so at once, where a service thread that was asked earlier brings a page late. */
static bool is_settled(stage_t *stage) {
  pf_region_t *region = stage->region;
  uint64_t resident = 0, staged = 0;
  bool gone = true;
  for (uint64_t page = 0; page < PAGES + BALLAST; page++) {
    unsigned state = state_of(region, page);
    gone = gone && (page >= PAGES || state == PF_ABSENT);
    resident += state == PF_PRESENT;
    staged += state == PF_STAGED;
  }
  pf_budget_numbers_t numbers;
  pf_budget_numbers(stage->budget, &numbers);
  return gone && counter(&region->counters.resident) == resident * PAGE && counter(&region->counters.staged) == staged * PAGE &&
         numbers.used == (resident + staged) * PAGE;
}

/* The same of a page that it is about to bring. */
static unsigned settled_state(const pf_region_t *region, uint64_t page) {
  unsigned state = state_of(region, page);
  for (uint64_t until = pf_now_ns() + LONG_MS * MS; pf_now_ns() < until && (state == PF_LOADING || state == PF_INSTALLING || state == PF_EVICTING);) {
    pf_sleep_until(pf_now_ns() + MS / 10);
    state = state_of(region, page);
  }
  return state;
}

/* With every call working: all that was written is there, can be flushed, and eviction finds every page. */
static void expect_nothing_lost(stage_t *stage) {
  pf_region_t *region = stage->region;
  region->timeout_ns = 20000 * MS;
  for (uint64_t page = 0; page < PAGES + BALLAST; page++) {
    unsigned state = settled_state(region, page);
    EXPECT(state == PF_ABSENT || state == PF_PRESENT || state == PF_STAGED || state == PF_FAILED);
    pf_why_t why;
    EXPECT(state != PF_FAILED || ensure(region, page, 20000, true, &why));
  }
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      EXPECT_EQ(touch(region, page * PAGE + SLOT(slot)), stage->model[slot][page]);
    }
  }
  EXPECT_EQ(flush_pages(region, 0, PAGES), PF_OK);
  EXPECT_EQ(dirty_in(region, 0, PAGES).pages, 0);
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    for (uint64_t page = 0; page < PAGES; page++) {
      EXPECT_EQ(stored_byte(stage->fd, page * PAGE + SLOT(slot)), stage->model[slot][page]);
    }
  }
  for (int tries = 0; tries < 20 && !is_settled(stage); tries++) {
    for (uint64_t page = PAGES; page < PAGES + BALLAST; page++) {
      EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
    }
  }
  EXPECT(is_settled(stage));
}

static void close_stage(stage_t *stage) {
  pf_budget_numbers_t numbers;
  EXPECT(close_region(stage->region));
  pf_budget_numbers(stage->budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  pf_budget_drop(stage->budget);
  close(stage->fd);
  free(stage);
}

static bool is_used(call_t call) {
  switch (call) {
    case MOVE:
    case SCAN:
    case ARM:
      return the_track == PF_TRACK_ASYNC;
    case CONTINUE:
      return the_backend == PF_BACKEND_MEMFD;
    case MPROTECT:
      return the_backend == PF_BACKEND_MPROTECT;
    case COPY:
    case ZERO:
      return the_backend == PF_BACKEND_SIGNAL;
    case PROTECT:
    case MADVISE:
      return the_backend != PF_BACKEND_MPROTECT;
    default:
      return true;
  }
}

static void each_call_once(void) {
  unsigned hit = 0;
  for (int call = 0; call < CALLS; call++) {
    for (int which = 0; is_used((call_t)call) && which < HOWS && injected_calls[call].how[which] != 0; which++) {
      for (int after = 0; after < (SLOW ? 20 : 60); after += 1 + after / 2) {
        snprintf(plan, sizeof plan, "%s number %d said %d", injected_calls[call].name, after, injected_calls[call].how[which]);
        stage_t *stage = open_stage();
        int before = atomic_load(&unmet);
        arm(call, 0, after, injected_calls[call].how[which]);
        play(stage, 0, 11 + (uint64_t)after, 25);
        disarm();
        hit += atomic_load(&injected);
        expect_nothing_lost(stage);
        close_stage(stage);
        if (atomic_load(&unmet) != before) {
          printf("  after %s\n", plan);
        }
      }
    }
  }
  EXPECT(hit > 20);
}

/* One call fails all the time for a while, in one way. */
static void each_call_often(void) {
  for (int call = 0; call < CALLS; call++) {
    for (int which = 0; is_used((call_t)call) && which < HOWS && injected_calls[call].how[which] != 0; which++) {
      uint64_t seed = pf_now_ns() | 1;
      snprintf(plan, sizeof plan, "%s says %d, seed %llu", injected_calls[call].name, injected_calls[call].how[which], (unsigned long long)seed);
      stage_t *stage = open_stage();
      int before = atomic_load(&unmet);
      atomic_store(&dice, seed);
      arm(call, 3, 0, injected_calls[call].how[which]);
      play(stage, 0, seed, SLOW ? 15 : 30);
      disarm();
      expect_nothing_lost(stage);
      close_stage(stage);
      if (atomic_load(&unmet) != before) {
        printf("  after %s\n", plan);
      }
    }
  }
}

static void play_slot(void *stage, unsigned slot, uint64_t seed) { play(stage, slot, seed, SLOW ? 40 : 80); }

static void at_random(unsigned threads, uint64_t budget_ns) {
  uint64_t seed = pf_now_ns() | 1, end = pf_now_ns() + budget_ns;
  const char *given = getenv("PF_TEST_SEED");
  seed = given != NULL ? strtoull(given, NULL, 10) : seed;
  for (int round = 0; pf_now_ns() < end; round++) {
    static const unsigned odds[] = {4, 12, 60};
    snprintf(plan, sizeof plan, "seed %llu", (unsigned long long)seed);
    stage_t *stage = open_stage();
    int before = atomic_load(&unmet);
    atomic_store(&dice, seed);
    uint64_t used = seed;
    arm(-1, odds[round % 3], 0, 0);
    play_together(threads, play_slot, stage, &seed);
    disarm();
    expect_nothing_lost(stage);
    close_stage(stage);
    if (atomic_load(&unmet) != before) {
      printf("  seed %llu, one call in %u\n", (unsigned long long)used, odds[round % 3]);
      break;
    }
  }
}

static void one_at_random(void) { at_random(1, SLOW ? 600 * MS : 1000 * MS); }
static void many_at_random(void) { at_random(SLOTS, SLOW ? 600 * MS : 1200 * MS); }

/* --- what is found only in between ------------------------------------------------------------------------------------------------------ */

/* Pages in the middle of a batch are locked in memory (mlock): the kernel drops and moves those around them only. */
static void locked_memory(void) {
  for (size_t size = PAGE; size <= 65536; size *= 16) {
    int fd;
    uint64_t len = 16 * size;
    pf_region_t *region = open_region(the_backend, writable_file(len, &fd), len, OPTIONS(.writable = true, .page_size = size));
    for (uint64_t page = 0; page < 16; page++) {
      poke(region, page * size + 7, (uint8_t)(page + 100));
      poke(region, page * size + size - 7, (uint8_t)(page + 200));
    }
    if (mlock(region->base + 5 * size + (size > PAGE ? 5 * PAGE : 0), size > PAGE ? 2 * PAGE : size) == 0) {
      uint64_t pages[16];
      sigset_t before;
      pf_mask_signals(&before);
      uint32_t count = 0;
      for (uint64_t page = 1; page < 12; page += page == 3 ? 2 : 1) { /* two runs */
        uint8_t seen = atomic_load(&region->states[page]);
        EXPECT(atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING)));
        pages[count++] = page;
      }
      uint32_t closed = pf_pages_close(region, pages, count);
      atomic_fetch_sub(&region->counters.resident, closed * size);
      pf_budget_staged(region, (int64_t)(closed * size));
      pf_pages_keep_staged(region, pages, closed);
      pf_pages_return(region, pages + closed, count - closed);
      pf_restore_signals(&before);
      for (uint64_t page = 0; page < 16; page++) {
        EXPECT_EQ(touch(region, page * size + 7), page + 100);
        EXPECT_EQ(touch(region, page * size + size - 7), (uint8_t)(page + 200));
        poke(region, page * size + 9, (uint8_t)(page + 50));
      }
      EXPECT_EQ(dirty_bits(region), 0xffff);
      munlock(region->base, len);
    }
    EXPECT_EQ(flush_all(region), PF_OK);
    for (uint64_t page = 0; page < 16; page++) {
      EXPECT_EQ(stored_byte(fd, page * size + 7), page + 100);
      EXPECT_EQ(stored_byte(fd, page * size + size - 7), (uint8_t)(page + 200));
    }
    EXPECT(close_region(region));
    close(fd);
  }
}

/* A thread that writes when a test tells it to; the test goes on after a moment, whether it could or not. */
static struct {
  pf_region_t *region;
  uint64_t offset;
  uint8_t value;
  _Atomic int go, wrote;
} other;

static void *write_when_told(void *data) {
  (void)data;
  while (!atomic_load(&other.go)) {
    sched_yield();
  }
  poke(other.region, other.offset, other.value);
  atomic_store(&other.wrote, 1);
  return NULL;
}

static void let_other_write(void) {
  if (!atomic_exchange(&other.go, 1)) {
    for (int i = 0; i < 100 && !atomic_load(&other.wrote); i++) {
      pf_sleep_until(pf_now_ns() + MS / 2);
    }
  }
}

static void on_drop(void *addr, size_t len, int advice) {
  uint8_t *target = other.region->base + other.offset;
  if (advice == MADV_DONTNEED && (uint8_t *)addr <= target && target < (uint8_t *)addr + len) {
    let_other_write();
  }
}

/* A flush could not protect a page; a write to it lands between its being copied away and its being dropped. */
static void unprotected_after_all(void) {
  int fd;
  pf_region_t *region = open_region(the_backend, writable_file(4 * PAGE, &fd), 4 * PAGE, OPTIONS(.writable = true));
  pthread_t thread;
  poke(region, PAGE, 1);
  arm(the_backend == PF_BACKEND_MPROTECT ? MPROTECT : the_track == PF_TRACK_ASYNC ? ARM : PROTECT, 1, 0, ENOMEM);
  EXPECT_EQ(flush_all(region), PF_E_NO_MEMORY);
  disarm();
  EXPECT_EQ(dirty_bits(region), 2);
  other.region = region;
  other.offset = PAGE + 1;
  other.value = 77;
  atomic_store(&other.go, 0);
  atomic_store(&other.wrote, 0);
  must(pthread_create(&thread, NULL, write_when_told, NULL) == 0, "a thread");
  atomic_store(&before_madvise, on_drop);
  EXPECT(stage_page(region, 1));
  atomic_store(&before_madvise, NULL);
  atomic_store(&other.go, 1);
  pthread_join(thread, NULL);
  EXPECT_EQ(touch(region, PAGE + 1), 77);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(stored_byte(fd, PAGE + 1), 77);
  EXPECT(close_region(region));
  close(fd);
}

/* mprotect: pinning opens pages as they are marked, a flush protects them, and the two meet. */
static flushing_t meeting;
static _Atomic int met;

static void on_open(void *addr, size_t len, int prot) {
  (void)len;
  if (addr == other.region->base + PAGE && prot == (PROT_READ | PROT_WRITE) && !atomic_exchange(&met, 1)) {
    begin_flush(&meeting, other.region, 0, 4);
    for (int i = 0; i < 100 && !atomic_load(&meeting.done); i++) { /* done, where nobody prevents it */
      pf_sleep_until(pf_now_ns() + MS / 2);
    }
  }
}

static void pinned_while_flushed(void) {
  int fd;
  pf_region_t *region = open_region(the_backend, writable_file(4 * PAGE, &fd), 4 * PAGE, OPTIONS(.writable = true));
  other.region = region;
  poke(region, PAGE, 1);
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_pin_add(region, 1, 2), 0);
  atomic_store(&met, 0);
  atomic_store(&before_mprotect, on_open);
  EXPECT(pf_pages_keep_open(region, 1, 2));
  atomic_store(&before_mprotect, NULL);
  pf_restore_signals(&before);
  if (atomic_load(&met)) {
    EXPECT_EQ(end_flush(&meeting), PF_OK);
  }
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_bits(region), 0);
  poke(region, PAGE + 1, 2);
  EXPECT_EQ(dirty_bits(region), 2);
  pf_mask_signals(&before);
  pf_pin_remove(region, 1, 2);
  pf_restore_signals(&before);
  EXPECT(close_region(region));
  close(fd);
}

/* mprotect: a dirty page that was closed cannot be opened again. Who touches it is told at the deadline. */
static void cannot_be_opened(void) {
  int fd;
  pf_failure_t failure;
  pf_region_t *region = open_region(the_backend, writable_file(4 * PAGE, &fd), 4 * PAGE, OPTIONS(.writable = true, .timeout_ms = 100));
  poke(region, PAGE, 9);
  if (the_backend == PF_BACKEND_MPROTECT) {
    must(syscall(SYS_mprotect, region->base + PAGE, PAGE, PROT_NONE) == 0, "a collapse");
    arm(MPROTECT, 1, 0, ENOMEM);
    EXPECT_EQ(pf_attempt_begin(), 0);
    touch(region, PAGE);
    EXPECT(pf_attempt_end(&failure));
    EXPECT_EQ(failure.why.code, PF_E_NO_MEMORY);
    EXPECT_EQ(pf_attempt_begin(), 0);
    poke(region, PAGE, 10);
    EXPECT(pf_attempt_end(&failure));
    disarm();
  }
  EXPECT_EQ(touch(region, PAGE), 9);
  EXPECT_EQ(dirty_bits(region), 2);
  EXPECT(close_region(region));
  close(fd);
}

/* mincore(2) says of a page that was swapped out that it is not there. Where the page map cannot be scanned, it is read. */
static void swapped_out(void) {
  int fd;
  pf_region_t *region = open_region(the_backend, writable_file(4 * PAGE, &fd), 4 * PAGE, OPTIONS(.writable = true));
  poke(region, PAGE, 9);
  atomic_store(&mincore_says_no, 1);
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 100 * MS};
  pf_why_t why;
  EXPECT(pf_page_reopen(region, 1, &wait, &why)); /* two threads touched it at once, and the second looks */
  EXPECT_EQ(touch(region, PAGE), 9);
  EXPECT(stage_page(region, 1));
  atomic_store(&mincore_says_no, 0);
  EXPECT_EQ(touch(region, PAGE), 9);
  EXPECT(close_region(region));
  close(fd);
}

/* Where a process asked for it, the kernel puts one page in the place of equal ones, and forgets which were protected and which were written. */
static bool is_mergeable(const void *addr) {
  FILE *maps = fopen("/proc/self/smaps", "re");
  char line[512];
  bool within = false, mergeable = false;
  while (fgets(line, sizeof line, maps) != NULL) {
    unsigned long start, end;
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      within = start <= (uintptr_t)addr && (uintptr_t)addr < end;
    } else if (within && strncmp(line, "VmFlags:", 8) == 0) {
      mergeable = strstr(line, " mg") != NULL;
    }
  }
  fclose(maps);
  return mergeable;
}

static void not_merged(void) {
  if (!SLOW && prctl(67 /* PR_SET_MEMORY_MERGE, 6.4 */, 1, 0, 0, 0) == 0) { /* a sanitizer has too much memory for it */
    int fd;
    pf_region_t *region = open_region(the_backend, writable_file(4 * PAGE, &fd), 4 * PAGE, OPTIONS(.writable = true));
    EXPECT(!is_mergeable(region->base));
    EXPECT(close_region(region));
    close(fd);
    prctl(67, 0, 0, 0, 0);
  }
}

/* ------------------------------------------------------------------------------------------------------------------------------------------ */

static void all(void) {
  test_here("memory that is locked is neither dropped nor lost", locked_memory);
  test_here("a page that could not be protected is protected before it is closed", unprotected_after_all);
  test_here("pinning does not open what a flush has protected", pinned_while_flushed);
  test_here("a dirty page that cannot be opened is an error at the deadline", cannot_be_opened);
  test_here("pages that are swapped out are there", swapped_out);
  test_here("pages are not merged with equal ones", not_merged);
#if defined(__x86_64__) /* a raw access cannot be let go on elsewhere */
  test_here("whatever call fails once, no write is lost", each_call_once);
  test_here("whatever call fails often, too", each_call_often);
  test_here("and whatever fails at random", one_at_random);
  test_here("and under several threads", many_at_random);
#endif
}

static void no_child(const char *name) { (void)name; }

int main(int count, char **arguments) { return run_modes(count, arguments, all, no_child); }
