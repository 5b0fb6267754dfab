/*
 * The calls on a userfaultfd of one's own: the handshake, partial progress, the whole loop with unread events and waiters. Needs faults in
 * the kernel, because sanitizers look at memory through their own code. Whoever touches missing memory is not watched.
 */
#include "support.h"
#include "uapi.h"

typedef struct {
  int fd;
  uint8_t *base;
  size_t pages;
} area_t;

static uint8_t source[16 * 65536]; /* eight pages of any size */

UNWATCHED static void fill(uint8_t *into, uint8_t byte, size_t len) {
  for (size_t i = 0; i < len; i++) {
    ((volatile uint8_t *)into)[i] = byte;
  }
}

static uint64_t at(const area_t *area, size_t page) { return (uintptr_t)area->base + page * PAGE; }

static area_t open_area(size_t pages, uint64_t features) {
  uint64_t offered = 0, ioctls = 0;
  area_t area = {.fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK, -1), .pages = pages};
  must(area.fd >= 0 && pf_uffd_handshake(area.fd, features, &offered, &ioctls) == 0, "a userfaultfd");
  area.base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(area.base != MAP_FAILED, "memory");
  must(pf_uffd_register(area.fd, at(&area, 0), pages * PAGE, PF_UFFDIO_REGISTER_MODE_MISSING, &ioctls) == 0, "a registered range");
  EXPECT((ioctls & (1 << 3)) != 0);
  return area;
}

static void close_area(area_t *area) {
  munmap(area->base, area->pages * PAGE);
  close(area->fd);
}

static int64_t copy(const area_t *area, size_t page, size_t pages) {
  return pf_uffd_copy(area->fd, at(area, page), (uintptr_t)source, pages * PAGE, 0);
}

static int resolve(const area_t *area, size_t page, size_t pages, pf_uffd_done_t *done) {
  pf_uffd_job_t job = {area->fd, PF_UFFD_COPY, at(area, page), (uintptr_t)source, pages * PAGE, PAGE, 0};
  return pf_uffd_resolve(&job, done);
}

/* The next message, within ten seconds or more; its first byte. */
static int next_message(int fd, uint64_t message[4]) {
  for (int tries = 0; tries < 10000; tries++) {
    int64_t got = pf_uffd_read(fd, message, PF_UFFD_MESSAGE_BYTES);
    if (got == PF_UFFD_MESSAGE_BYTES) {
      return (int)(message[0] & 0xff);
    }
    must(got == -EAGAIN, "a message");
    pf_sleep_until(pf_now_ns() + MS);
  }
  return -1;
}

static void handshakes(pf_backend_t backend) {
  (void)backend;
  uint64_t offered = 0, ioctls = 0, message[4];
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK, -1);
  EXPECT_EQ(pf_uffd_read(fd, message, sizeof message), -EINVAL);
  EXPECT_EQ(pf_uffd_handshake(fd, 1ULL << 40, &offered, &ioctls), -EINVAL);
  EXPECT_EQ(pf_uffd_handshake(fd, PF_UFFD_FEATURE_SIGBUS, &offered, &ioctls), 0);
  EXPECT((offered & PF_UFFD_FEATURE_SIGBUS) != 0 && (ioctls >> 63) == 1);
  EXPECT_EQ(pf_uffd_handshake(fd, 0, &offered, &ioctls), -EINVAL);
  EXPECT_EQ(pf_uffd_read(fd, message, sizeof message), -EAGAIN);
  EXPECT_EQ(pf_uffd_read(fd, message, 31), -EINVAL);
  EXPECT_EQ(pf_uffd_read_now(fd, message, sizeof message), -EAGAIN);
  EXPECT_EQ(pf_uffd_read_now(fd, message, 31), -EINVAL);
  EXPECT_EQ(fcntl(fd, F_SETFL, 0), 0); /* from here on a plain read would wait for ever */
  EXPECT_EQ(pf_uffd_read_now(fd, message, sizeof message), -EDEADLK);
  close(fd);
  EXPECT_EQ(pf_uffd_open(O_CLOEXEC, fd), -EBADF);
  EXPECT_EQ(pf_uffd_wake(fd, 0, PAGE), -EBADF);
}

static void progress(pf_backend_t backend) {
  (void)backend;
  pf_uffd_done_t done;
  area_t area = open_area(8, 0);
  EXPECT_EQ(copy(&area, 2, 1), PAGE);
  EXPECT_EQ(copy(&area, 0, 4), 2 * PAGE);
  EXPECT_EQ(copy(&area, 2, 1), -EEXIST);
  EXPECT_EQ(pf_uffd_zeropage(area.fd, at(&area, 2), PAGE, 0), -EEXIST);
  EXPECT_EQ(pf_uffd_copy(area.fd, at(&area, 4), 4096, PAGE, 0), -EFAULT);
  EXPECT_EQ(resolve(&area, 0, 8, &done), 0);
  EXPECT_EQ(done.dealt, 8 * PAGE);
  EXPECT_EQ(done.copied, 5 * PAGE);
  EXPECT_EQ(done.present, 3 * PAGE);
  EXPECT_EQ(pf_uffd_unregister(area.fd, at(&area, 4), 4 * PAGE), 0);
  madvise(area.base, 8 * PAGE, MADV_DONTNEED);
  EXPECT_EQ(resolve(&area, 0, 8, &done), -ENOENT);
  EXPECT_EQ(resolve(&area, 2, 2, &done), 0);
  close_area(&area);
}

static void *drop(void *argument) {
  area_t *area = argument;
  madvise(area->base, PAGE, MADV_DONTNEED);
  return NULL;
}

static void unread(pf_backend_t backend) {
  (void)backend;
  pf_uffd_done_t done;
  pthread_t thread;
  uint64_t message[4];
  int err = 0;
  area_t area = open_area(4, 1ULL << 3); /* EVENT_REMOVE */
  must(pthread_create(&thread, NULL, drop, &area) == 0, "a thread");
  for (int tries = 0; tries < 10000 && err != -EAGAIN; tries++) {
    uint64_t started = pf_now_ns();
    err = resolve(&area, 1, 1, &done);
    EXPECT(err != -EAGAIN || pf_now_ns() - started < SOON);
    EXPECT(err == 0 || done.dealt == 0);
    pf_sleep_until(pf_now_ns() + MS);
  }
  EXPECT_EQ(err, -EAGAIN);
  EXPECT_EQ(next_message(area.fd, message), 0x15);
  EXPECT_EQ(message[1], at(&area, 0));
  EXPECT_EQ(message[2], at(&area, 1));
  pthread_join(thread, NULL);
  EXPECT_EQ(resolve(&area, 2, 2, &done), 0);
  close_area(&area);
}

typedef struct {
  area_t *area;
  _Atomic int value;
} reader_t;

UNWATCHED static void *read_first(void *argument) {
  reader_t *reader = argument;
  int value = *(volatile uint8_t *)reader->area->base;
  atomic_store(&reader->value, value);
  return NULL;
}

static void woken(pf_backend_t backend) {
  (void)backend;
  pf_uffd_done_t done;
  pthread_t thread;
  uint64_t message[4];
  area_t area = open_area(1, 0);
  reader_t reader = {&area, -1};
  fill(source, 77, PAGE);
  must(pthread_create(&thread, NULL, read_first, &reader) == 0, "a thread");
  EXPECT_EQ(next_message(area.fd, message), 0x12);
  EXPECT_EQ(message[2], at(&area, 0));
  EXPECT_EQ(pf_uffd_copy(area.fd, at(&area, 0), (uintptr_t)source, PAGE, PF_UFFDIO_COPY_MODE_DONTWAKE), PAGE);
  pf_sleep_until(pf_now_ns() + 20 * MS);
  EXPECT_EQ(atomic_load(&reader.value), -1);
  EXPECT_EQ(resolve(&area, 0, 1, &done), 0); /* it is there: its waiter is woken */
  EXPECT_EQ(done.present, PAGE);
  pthread_join(thread, NULL);
  EXPECT_EQ(atomic_load(&reader.value), 77);
  close_area(&area);
}

int main(void) {
  pf_uffd_probe_t probe;
  pf_uffd_probe(&probe);
  if (probe.kernel_mode_errno != 0) {
    printf("0 passed, 0 failed, all skipped (no userfaultfd for faults in the kernel)\n");
    return 0;
  }
  run_one("a handshake is made once, and may be tried again after a refusal", "", handshakes, PF_BACKEND_SIGNAL);
  run_one("partial progress is told, and the whole loop goes past it", "", progress, PF_BACKEND_SIGNAL);
  run_one("an unread event stops the loop within its patience", "", unread, PF_BACKEND_SIGNAL);
  run_one("a waiter on a page that is there is woken", "", woken, PF_BACKEND_SIGNAL);
  return summary();
}
