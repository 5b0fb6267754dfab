/*
 * The floor of the `signal` backend: private anonymous memory under a userfaultfd with the SIGBUS feature. The faulting thread
 * reads the page from the file into a scratch buffer and copies it in, without leaving its signal handler for another thread.
 * A batch makes one fault bring several pages; a capacity drops the oldest pages, 64 in one call. A writable one opens them clean, the
 * kernel notes what is written to (WP_ASYNC), and that goes back to the file before it is dropped.
 *
 * The SIGBUS handler is ours only between open and close, so that the engine under test has it at all other times.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "floor.h"
#include "kernel.h"

enum { DROP = 64 }; /* pages dropped in one call */
#define SCALE_MAX 8  /* threads that touch at once */

static struct {
  uintptr_t base;
  size_t len;
  size_t page_size;
  size_t unit;         /* bytes that one fault brings */
  uintptr_t share;     /* bytes of the region that one thread touches: each has a scratch buffer of its own */
  char *scratch[SCALE_MAX];
  int fd;
  int uffd;
  int pidfd;           /* of ourselves, for process_madvise; -1 without a capacity */
  int pagemap;         /* -1 unless writable */
  size_t capacity;     /* in units, a multiple of DROP; 0 for no limit */
  size_t loaded;       /* units brought so far; the next goes to ring[loaded % capacity] */
  uint32_t *ring;      /* numbers of the units present, oldest first */
  struct sigaction before;
} the;

/* Nobody else writes meanwhile: what is scanned is what will be dropped. */
static void write_back(uintptr_t from, uintptr_t to) {
  struct floor_page_region regions[64];
  for (uintptr_t at = from; at < to;) {
    int count = floor_scan(the.pagemap, at, to, 0, regions, 64, &at);
    if (count < 0) floor_die("floor: PAGEMAP_SCAN failed\n");
    for (int i = 0; i < count; i++) {
      size_t len = regions[i].end - regions[i].start;
      off_t offset = (off_t)(regions[i].start - the.base);
      if (pwrite(the.fd, (void *)(uintptr_t)regions[i].start, len, offset) != (ssize_t)len) floor_die("floor: pwrite failed\n");
    }
  }
}

/* Makes room for DROP units by dropping the oldest ones. */
static void drop_oldest(void) {
  struct iovec pages[DROP];
  size_t first = the.loaded % the.capacity;
  for (size_t i = 0; i < DROP; i++) {
    pages[i].iov_base = (void *)(the.base + the.ring[first + i] * the.unit);
    pages[i].iov_len = the.unit;
    uintptr_t at = (uintptr_t)pages[i].iov_base;
    if (the.pagemap >= 0) write_back(at, at + the.unit);
  }
  if (syscall(SYS_process_madvise, the.pidfd, pages, (size_t)DROP, MADV_DONTNEED, 0) == (long)(DROP * the.unit)) return;
  /* Kernels before 6.13 do not take this advice here. */
  for (size_t i = 0; i < DROP; i++) {
    if (madvise(pages[i].iov_base, pages[i].iov_len, MADV_DONTNEED) != 0) floor_die("floor: madvise failed\n");
  }
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context) {
  (void)signal_number;
  (void)context;
  int saved = errno;
  uintptr_t offset = (uintptr_t)info->si_addr - the.base;
  if (offset >= the.len) floor_die("floor: SIGBUS outside of the region\n");
  offset &= ~(uintptr_t)(the.unit - 1);
  if (the.capacity != 0) {
    if (the.loaded >= the.capacity && the.loaded % DROP == 0) drop_oldest();
    the.ring[the.loaded++ % the.capacity] = (uint32_t)(offset / the.unit);
  }
  char *scratch = the.scratch[offset / the.share];
  if (pread(the.fd, scratch, the.unit, (off_t)offset) != (ssize_t)the.unit) floor_die("floor: pread failed\n");
  uint64_t mode = the.pagemap >= 0 ? FLOOR_COPY_WP : 0;
  struct uffdio_copy copy = {.dst = the.base + offset, .src = (uintptr_t)scratch, .len = the.unit, .mode = mode};
  if (ioctl(the.uffd, UFFDIO_COPY, &copy) != 0) floor_die("floor: UFFDIO_COPY failed\n");
  errno = saved;
}

/* Frees what open has got so far. The handler is not installed any more. */
static void release(void) {
  if (the.uffd >= 0) close(the.uffd);
  if (the.pidfd >= 0) close(the.pidfd);
  if (the.pagemap >= 0) close(the.pagemap);
  if (the.base != 0) munmap((void *)the.base, the.len);
  for (size_t i = 0; i < SCALE_MAX; i++) free(the.scratch[i]);
  free(the.ring);
  memset(&the, 0, sizeof the);
}

int floor_sigbus_open(const struct floor_sigbus_options *options, void **base) {
  if (the.base != 0) return -EBUSY;
  the.page_size = floor_page_size();
  the.len = options->len;
  the.unit = options->batch * the.page_size;
  the.fd = options->fd;
  the.uffd = -1;
  the.pidfd = -1;
  the.pagemap = -1;
  the.capacity = options->capacity / options->batch / DROP * DROP;
  if ((the.unit & (the.unit - 1)) != 0 || the.len % the.unit != 0) return -EINVAL;

  int protection = options->writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void *memory = mmap(NULL, the.len, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  the.base = (uintptr_t)memory;
  the.share = the.len / (options->threads > 1 ? options->threads : 1);
  uint64_t features = FLOOR_FEATURE_SIGBUS | (options->writable ? FLOOR_FEATURE_WP_ASYNC : 0);
  uint64_t modes = FLOOR_REGISTER_MISSING | (options->writable ? FLOOR_REGISTER_WP : 0);
  int error = floor_uffd_open(memory, the.len, features, modes, &the.uffd);
  if (error == 0 && options->writable) {
    the.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (the.pagemap < 0) error = -errno;
  }
  for (int i = 0; i < SCALE_MAX && error == 0; i++) {
    the.scratch[i] = aligned_alloc(the.page_size, the.unit);
    if (the.scratch[i] == NULL) error = -ENOMEM;
    else memset(the.scratch[i], 0, the.unit);
  }
  if (error == 0 && the.capacity != 0) {
    the.ring = calloc(the.capacity, sizeof *the.ring);
    the.pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (the.ring == NULL) error = -ENOMEM;
  }
  struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
  action.sa_sigaction = on_sigbus;
  sigfillset(&action.sa_mask);
  if (error == 0 && sigaction(SIGBUS, &action, &the.before) != 0) error = -errno;
  if (error != 0) {
    release();
    return error;
  }
  *base = memory;
  return 0;
}

int floor_sigbus_close(void) {
  if (the.base == 0) return -EINVAL;
  struct sigaction ours;
  sigaction(SIGBUS, &the.before, &ours);
  int replaced = ours.sa_sigaction != on_sigbus;
  if (the.pagemap >= 0) write_back(the.base, the.base + the.len);
  release();
  return replaced;
}

/* --- several threads --- */

struct toucher {
  pthread_t thread;
  pthread_barrier_t *barrier;
  const uint32_t *order;
  size_t count;
  int cpu;
  uint32_t sum;
  uint64_t begin_ns;
  uint64_t end_ns;
};

static void *touch(void *argument) {
  struct toucher *self = argument;
  floor_pin_thread(self->cpu);
  pthread_barrier_wait(self->barrier);
  self->begin_ns = floor_now_ns();
  self->sum = floor_touch((const uint8_t *)the.base, self->order, self->count, the.page_size);
  self->end_ns = floor_now_ns();
  return NULL;
}

int floor_sigbus_scale(size_t len, int fd, const uint32_t *order, size_t count, size_t threads, uint64_t *ns, uint32_t *sum) {
  struct toucher touchers[SCALE_MAX];
  pthread_barrier_t barrier;
  int cpus[2];
  void *base;
  if (threads < 1 || threads > SCALE_MAX) return -EINVAL;
  if (floor_cpus(cpus, 2) < (threads < 2 ? 1 : 2)) return -ENOSYS;
  int error = floor_sigbus_open(&(struct floor_sigbus_options){.len = len, .fd = fd, .batch = 1, .threads = threads}, &base);
  if (error != 0) return error;

  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (size_t i = 0; i < threads; i++) {
    size_t from = i * (count / threads);
    size_t to = i + 1 == threads ? count : from + count / threads;
    touchers[i] = (struct toucher){.barrier = &barrier, .order = order + from, .count = to - from, .cpu = cpus[i % 2]};
    if (pthread_create(&touchers[i].thread, NULL, touch, &touchers[i]) != 0) floor_die("floor: pthread_create failed\n");
  }
  uint64_t begin = UINT64_MAX;
  uint64_t end = 0;
  *sum = 0;
  for (size_t i = 0; i < threads; i++) {
    pthread_join(touchers[i].thread, NULL);
    if (touchers[i].begin_ns < begin) begin = touchers[i].begin_ns;
    if (touchers[i].end_ns > end) end = touchers[i].end_ns;
    *sum += touchers[i].sum;
  }
  pthread_barrier_destroy(&barrier);
  *ns = end - begin;
  return floor_sigbus_close();
}
