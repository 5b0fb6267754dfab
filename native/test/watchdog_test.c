/* sanitizers: address,thread,none */
/* Late pages of a store served in C, whose read does not return: told of while it is waited for, with the thread and what it is at, and right in the end. */
#include "support.h"
#include "stalls.h"

#include "thread.h"

static _Atomic uint32_t held;

NOTHING_AT_ONCE

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  while (len >= PAGE && atomic_load(&held) != 0) {
    pf_futex_wait(&held, 1, pf_now_ns() + 60000 * MS);
  }
  return syscall(SYS_pread64, fd, into, len, offset);
}

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t offset;
  bool raw;
  int tid, byte;
} toucher_t;

static void *touch_one(void *data) {
  toucher_t *toucher = data;
  toucher->tid = (int)syscall(SYS_gettid);
  EXPECT_EQ(pf_thread_tid(), toucher->tid);
  toucher->byte = toucher->raw ? touch(toucher->region, toucher->offset) : checked_byte(toucher->region, toucher->offset);
  return NULL;
}

static bool nobody_waits(void) {
  pf_serving_t serving;
  for (size_t i = 0; i < PF_THREADS_MAX; i++) {
    if (pf_thread_waits(i, &serving)) {
      return false;
    }
  }
  return true;
}

static void late(pf_backend_t backend, bool raw) {
  pf_region_t *region = open_region(backend, file_source(8 * PAGE), 8 * PAGE, OPTIONS(.stall_after_ms = 20, .poll_ms = 100));
  toucher_t toucher = {.region = region, .offset = 3 * PAGE + 5, .raw = raw};
  stall_search_t search = {.region = atomic_load(&region->id), .serial = pf_stall_serial()};
  atomic_store(&held, 1);
  must(pthread_create(&toucher.thread, NULL, touch_one, &toucher) == 0, "a thread");
  EXPECT(wait_until(is_told_late, &search, 30000));
  EXPECT_EQ(search.stall.page, 3);
  EXPECT(search.stall.waited_ns >= 20 * MS);
  EXPECT(strstr(search.stall.doing, "the read of the store has not returned; it ") == search.stall.doing); /* the thread that reads, whoever waits for it */
  EXPECT(strstr(search.stall.doing, "; it sleeps until another thread wakes it") != NULL || strstr(search.stall.doing, "; it is running code") != NULL);
  char text[PF_MESSAGE_MAX] = "it took too long";
  pf_stall_append(search.region, 3, 0, text, sizeof text);
  EXPECT(strstr(text, "it took too long; when it was late, the read") == text);
  atomic_store(&held, 0);
  pf_futex_wake_all(&held);
  pthread_join(toucher.thread, NULL);
  EXPECT_EQ(search.stall.tid, toucher.tid);
  EXPECT_EQ(toucher.byte, pattern(3 * PAGE + 5));
  EXPECT_EQ(counter(&region->counters.stalls), 1);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(nobody_waits());
  EXPECT(close_region(region));
}

static void raw_touch(pf_backend_t backend) { late(backend, true); }
static void checked_read(pf_backend_t backend) { late(backend, false); }

int main(void) {
  setenv("PAGEFAULT_STALL_REPORTS", "0", 1);
  test_each("a touch whose read does not return is told of, and right in the end", raw_touch);
  test_each("a checked read that does not return, too", checked_read);
  return summary();
}
