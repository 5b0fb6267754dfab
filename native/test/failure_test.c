/* sanitizers: address,thread,none */
/*
 * Stores that fail: tried again until the deadline, then the page is FAILED with the reason and heals when it is asked to; a file that
 * changes under a segment fails closed; closing ends every wait. The file's reads fail when this program says so: pread is ours.
 */
#include "support.h"

/* --- reads that fail ------------------------------------------------------------------------------------------------------- */

static _Atomic int fail_with;        /* errno of every read, 0: none */
static _Atomic int fail_times;       /* so many reads, 0: all */
static _Atomic int short_reads;      /* 1: a few bytes at a time, and EINTR between them */
static _Atomic unsigned reads;

static ssize_t read_file_at(int fd, void *into, size_t len, off_t offset) {
  unsigned number = atomic_fetch_add(&reads, 1);
  int err = atomic_load(&fail_with);
  if (err != 0) {
    if (atomic_load(&fail_times) > 0 && atomic_fetch_sub(&fail_times, 1) == 1) { /* the last one */
      atomic_store(&fail_with, 0);
    }
    errno = err;
    return -1;
  }
  if (atomic_load(&short_reads)) {
    if (number % 3 == 0) {
      errno = EINTR;
      return -1;
    }
    len = len > 100 ? len / 3 : len;
  }
  return syscall(SYS_pread64, fd, into, len, offset);
}

ssize_t pread(int fd, void *into, size_t len, off_t offset) { return read_file_at(fd, into, len, offset); }
ssize_t pread64(int fd, void *into, size_t len, off_t offset) { return read_file_at(fd, into, len, offset); }
NOTHING_AT_ONCE

static void fail_reads(int err, int times) {
  atomic_store(&fail_times, times);
  atomic_store(&fail_with, err);
}

static void tried_again(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS());
  pf_why_t why = {0};
  int passing[] = {EIO, EAGAIN, ENOMEM, ETIMEDOUT, ESTALE};
  int failed = 0;
  for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
    fail_reads(passing[i], 0);
    uint64_t retries = counter(&region->counters.retries);
    for (int tries = 0; tries < 20 && counter(&region->counters.retries) == retries; tries++, failed++) { /* on a busy machine the first read may return after the deadline */
      uint64_t started = pf_now_ns();
      EXPECT(!ensure(region, i, 120, true, &why));
      uint64_t took = pf_now_ns() - started;
      EXPECT_EQ(why.code, PF_E_STORE);
      EXPECT_EQ(why.err, passing[i]);
      EXPECT(took >= 120 * MS && took < SOON);
    }
    EXPECT(counter(&region->counters.retries) > retries);
    EXPECT_EQ(state_of(region, i), PF_FAILED);
    EXPECT_EQ(checked_byte(region, i * PAGE), -1 - PF_E_STORE);
    fail_reads(0, 0);
    EXPECT_EQ(checked_byte(region, i * PAGE), -1 - PF_E_STORE); /* it stays failed until it is healed */
    EXPECT_EQ(checked_byte(region, 7 * PAGE), pattern(7 * PAGE)); /* others are well */
  }
  EXPECT_EQ(counter(&region->counters.failed_pages), 5);
  EXPECT_EQ(counter(&region->counters.failures), failed);
  EXPECT_EQ(counter(&region->counters.resident), PAGE);
  EXPECT(ensure(region, 0, LONG_MS, true, &why));
  EXPECT_EQ(touch(region, 5), pattern(5));
  pf_region_invalidate(region, 0, 8); /* heals too */
  EXPECT_EQ(counter(&region->counters.failed_pages), 0);
  EXPECT_EQ(first_difference(region, 0, 8 * PAGE, 0, 8 * PAGE), 8 * PAGE);
  EXPECT(close_region(region));
}

static void hopeless_at_once(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS());
  int hopeless[] = {EBADF, EISDIR, EINVAL};
  for (size_t i = 0; i < sizeof hopeless / sizeof *hopeless; i++) {
    pf_why_t why;
    fail_reads(hopeless[i], 0);
    uint64_t started = pf_now_ns();
    EXPECT(!ensure(region, i, 20000, false, &why));
    EXPECT_EQ(why.err, hopeless[i]);
    EXPECT(pf_now_ns() - started < SOON);
  }
  fail_reads(0, 0);
  EXPECT(close_region(region));
}

static void heals_in_time(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS(.readahead = (int64_t)(8 * PAGE)));
  fail_reads(EIO, 4);
  EXPECT_EQ(first_difference(region, 0, 64 * PAGE, 0, 64 * PAGE), 64 * PAGE); /* raw touches: they only take longer */
  EXPECT(counter(&region->counters.retries) >= 2);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  fail_reads(0, 0);
  EXPECT(close_region(region));
}

static void bit_by_bit(pf_backend_t backend) {
  uint64_t len = 40 * PAGE + 50;
  pf_region_t *region = open_region(backend, file_source(len), len, OPTIONS(.readahead = -1, .page_size = 4 * PAGE));
  atomic_store(&short_reads, 1);
  EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
  atomic_store(&short_reads, 0);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
}

/* What a failed read left behind must not be found in the page later. */
static void no_remains(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS(.budget = budget, .unreadable_zero = true, .timeout_ms = 30));
  pf_budget_numbers_t numbers;
  pf_why_t why;
  EXPECT_EQ(first_difference(region, 0, 8 * PAGE, 0, 8 * PAGE), 8 * PAGE);
  pf_region_release(region, 0, 8);
  fail_reads(EIO, 0);
  EXPECT(!ensure(region, 3, 20, false, &why));
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  EXPECT_EQ(first_difference(region, 3 * PAGE, 4 * PAGE, 0, 0), 4 * PAGE); /* all zeroes, nothing of the old bytes */
  fail_reads(0, 0);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* --- unreadable: 'zero' ------------------------------------------------------------------------------------------------------------ */

static void unreadable_zero(pf_backend_t backend) {
  for (size_t size = PAGE; size <= 64 * PAGE; size *= 64) {
    pf_region_t *region = open_region(backend, file_source(4 * size), 4 * size, OPTIONS(.unreadable_zero = true, .timeout_ms = 60, .page_size = size));
    fail_reads(EIO, 0);
    EXPECT_EQ(first_difference(region, size, 2 * size, 0, 0), 2 * size);
    EXPECT_EQ(state_of(region, 1), PF_FAILED);
    EXPECT_EQ(counter(&region->counters.failed_pages), 1);
    EXPECT_EQ(checked_byte(region, size), -1 - PF_E_STORE); /* who asks is told */
    EXPECT_EQ(counter(&region->counters.resident), 0);
    fail_reads(0, 0);
    pf_why_t why;
    EXPECT(!ensure(region, 1, LONG_MS, false, &why));
    EXPECT(ensure(region, 1, LONG_MS, true, &why));
    EXPECT_EQ(first_difference(region, 0, 4 * size, 0, 4 * size), 4 * size);
    EXPECT_EQ(counter(&region->counters.failed_pages), 0);
    fail_reads(EIO, 0);
    pf_region_release(region, 2, 3);
    EXPECT_EQ(touch(region, 2 * size + 1), 0);
    fail_reads(0, 0);
    pf_region_invalidate(region, 2, 3);
    EXPECT_EQ(touch(region, 2 * size + 1), pattern(2 * size + 1));
    EXPECT(close_region(region));
  }
}

/* --- files that change ------------------------------------------------------------------------------------------------------------- */

static pf_why_t why_of(pf_region_t *region, uint64_t page) {
  pf_why_t why = {0};
  uint64_t started = pf_now_ns();
  EXPECT(!ensure(region, page, 20000, true, &why));
  EXPECT(pf_now_ns() - started < SOON); /* no use in trying again */
  return why;
}

/* mtime has the granularity of the kernel's tick. */
static void let_time_pass(void) { pf_sleep_until(pf_now_ns() + 20 * MS); }

static void truncated(pf_backend_t backend) {
  char path[64];
  make_path(path);
  for (int check = 0; check < 2; check++) {
    write_file(path, 0, 16 * PAGE);
    pf_source_t source = file_source_at(path, 0);
    source.check = check == 1;
    pf_region_t *region = open_region(backend, source, 16 * PAGE, OPTIONS());
    EXPECT_EQ(touch(region, 2 * PAGE), pattern(2 * PAGE));
    let_time_pass();
    must(truncate(path, (off_t)(4 * PAGE + 10)) == 0, "truncate");
    EXPECT_EQ(why_of(region, 4).code, check ? PF_E_CHANGED : PF_E_SHORT);
    EXPECT_EQ(why_of(region, 9).code, check ? PF_E_CHANGED : PF_E_SHORT);
    EXPECT_EQ(touch(region, 2 * PAGE), pattern(2 * PAGE)); /* what is there stays */
    if (!check) {
      EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
    }
    write_file(path, 0, 16 * PAGE);
    EXPECT_EQ(pf_source_rebase(&region->source), 0);
    pf_region_invalidate(region, 0, 16);
    EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 0, 16 * PAGE), 16 * PAGE);
    EXPECT(close_region(region));
  }
  unlink(path);
}

static void rewritten(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 16 * PAGE);
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 16 * PAGE, OPTIONS());
  EXPECT_EQ(touch(region, 0), pattern(0));
  let_time_pass();
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  must(pwrite(fd, "x", 1, (off_t)(9 * PAGE)) == 1, "a write");
  close(fd);
  EXPECT_EQ(why_of(region, 9).code, PF_E_CHANGED);
  EXPECT_EQ(why_of(region, 3).code, PF_E_CHANGED);
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT_EQ(pf_source_rebase(&region->source), 0);
  pf_region_invalidate(region, 0, 16);
  EXPECT_EQ(touch(region, 9 * PAGE), 'x');
  EXPECT_EQ(touch(region, 3 * PAGE), pattern(3 * PAGE));
  EXPECT(close_region(region));
  unlink(path);
}

static void replaced(pf_backend_t backend) {
  char path[64], other[64];
  make_path(path);
  make_path(other);
  write_file(path, 0, 16 * PAGE);
  write_file(other, 5, 16 * PAGE);
  unsigned descriptors = count_descriptors();
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 16 * PAGE, OPTIONS());
  EXPECT_EQ(touch(region, 0), pattern(0));
  must(rename(other, path) == 0, "rename");
  EXPECT_EQ(why_of(region, 1).code, PF_E_CHANGED);
  EXPECT_EQ(pf_source_rebase(&region->source), 0);
  pf_region_invalidate(region, 0, 16);
  EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 5, 16 * PAGE), 16 * PAGE);
  EXPECT(close_region(region));
  EXPECT(count_descriptors() <= descriptors + 2); /* the core's own two */
  unlink(path);
}

static void unlinked(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 16 * PAGE);
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 16 * PAGE, OPTIONS());
  EXPECT_EQ(touch(region, 0), pattern(0));
  unlink(path);
  EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 0, 16 * PAGE), 16 * PAGE);
  EXPECT_EQ(pf_source_rebase(&region->source), 0);
  pf_region_invalidate(region, 0, 16);
  EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 0, 16 * PAGE), 16 * PAGE);
  EXPECT(close_region(region));
}

/* --- closing ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t page;
  pf_why_t why;
} waiter_t;

static void *wait_for_page(void *data) {
  waiter_t *waiter = data;
  EXPECT(!ensure(waiter->region, waiter->page, 30000, false, &waiter->why));
  return NULL;
}

/* One is trying again and again, the others wait for it. */
static void closed_while_retrying(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS());
  waiter_t waiters[4];
  fail_reads(EIO, 0);
  for (uint64_t i = 0; i < 4; i++) {
    waiters[i] = (waiter_t){.region = region, .page = i / 3};
    must(pthread_create(&waiters[i].thread, NULL, wait_for_page, &waiters[i]) == 0, "a thread");
  }
  pf_sleep_until(pf_now_ns() + 50 * MS);
  uint64_t started = pf_now_ns();
  pf_region_close(region, true);
  for (int i = 0; i < 4; i++) {
    pthread_join(waiters[i].thread, NULL);
    EXPECT_EQ(waiters[i].why.code, PF_E_CLOSED);
  }
  EXPECT(pf_now_ns() - started < SOON);
  fail_reads(0, 0);
  EXPECT_EQ(checked_byte(region, 0), -1 - PF_E_CLOSED);
  EXPECT(close_region(region));
}

static void cancelled(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS());
  fail_reads(EIO, 0);
  _Atomic uint32_t cancel = 1;
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 30000 * MS, .cancel = &cancel};
  pf_why_t why;
  EXPECT(!pf_page_ensure(region, 1, &wait, &why));
  EXPECT_EQ(why.code, PF_E_ABORTED);
  EXPECT_EQ(state_of(region, 1), PF_ABSENT);
  fail_reads(0, 0);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  EXPECT(close_region(region));
}

/* --- raw touches ------------------------------------------------------------------------------------------------------------------------- */

static int in_child(const char *name, pf_backend_t backend) {
  default_handlers();
  if (strcmp(name, "truncated") == 0) {
    char path[64];
    make_path(path);
    write_file(path, 0, 16 * PAGE);
    pf_region_t *region = open_region(backend, file_source_at(path, 0), 16 * PAGE, OPTIONS(.name = "cut short"));
    must(truncate(path, (off_t)PAGE) == 0, "truncate");
    unlink(path);
    return touch(region, 7 * PAGE);
  }
  if (strcmp(name, "error") == 0) {
    pf_region_t *region = open_region(backend, file_source(16 * PAGE), 16 * PAGE, OPTIONS(.timeout_ms = 50));
    fail_reads(EIO, 0);
    return touch(region, 2 * PAGE);
  }
  /* closed and shared: the memory stays, its pages do not, and nobody may find zeroes there */
  bool zeroed = strcmp(name, "closed zeroed") == 0;
  pf_region_t *region = open_region(backend, file_source(16 * PAGE), 16 * PAGE,
                                    OPTIONS(.shared = true, .name = "over", .unreadable_zero = zeroed, .timeout_ms = zeroed ? 20 : 0));
  touch(region, 0);
  if (zeroed) {
    fail_reads(EIO, 0);
    if (touch(region, PAGE) != 0) {
      return 9;
    }
    fail_reads(0, 0);
  }
  pf_region_close(region, true);
  pf_region_leave(region);
  pf_region_reap();
  return touch(region, strcmp(name, "closed present") == 0 ? 0 : PAGE);
}

static void raw_touches(pf_backend_t backend) {
  int fault = fatal_signal(backend);
  ended_t ended;
  run_child("truncated", backend, &ended);
  EXPECT_SIGNAL(&ended, fault);
  EXPECT_TEXT(&ended, "ERR_PAGEFAULT_STORE_CHANGED");
  EXPECT_TEXT(&ended, "cut short");
  EXPECT_TEXT(&ended, "page 7 of 16");
  run_child("error", backend, &ended);
  EXPECT_SIGNAL(&ended, fault);
  EXPECT_TEXT(&ended, "ERR_PAGEFAULT_STORE");
  EXPECT_TEXT(&ended, "errno 5");
}

static void touched_after_closing(pf_backend_t backend) {
  const char *const names[] = {"closed absent", "closed present", "closed zeroed"};
  for (size_t i = 0; i < 3; i++) {
    ended_t ended;
    run_child(names[i], backend, &ended);
    EXPECT_SIGNAL(&ended, fatal_signal(backend));
    EXPECT_TEXT(&ended, "ERR_PAGEFAULT_CLOSED");
  }
}

int main(int count, char **arguments) {
  if (count == 4) {
    return in_child(arguments[2], backend_named(arguments[3]));
  }
  test_each("a read that fails is tried again until the deadline, then the page fails until it is healed", tried_again);
  test_each("a read that can never work fails at once", hopeless_at_once);
  test_each("a store that heals before the deadline is only slow", heals_in_time);
  test_each("short and interrupted reads are put together", bit_by_bit);
  test_each("a failed read leaves nothing behind", no_remains);
  test_each("unreadable: 'zero' reads zeroes until the page is healed", unreadable_zero);
  test_each("a file that was truncated fails its pages", truncated);
  test_each("a file that was written to fails its pages", rewritten);
  test_each("a file that was replaced fails its pages, and is taken as it is when invalidated", replaced);
  test_each("a file that was only unlinked is still there", unlinked);
  test_each("closing ends retries and those who wait for them", closed_while_retrying);
  test_each("a cancelled load leaves the page as it was", cancelled);
  test_each("a raw touch of a page that cannot be had ends the process with a report", raw_touches);
  test_each("memory of a closed segment that is shared is never zeroes", touched_after_closing);
  return summary();
}
