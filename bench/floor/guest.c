/*
 * Guests for the benchmark, and the floor of the daemon that pages them: a program of its own, not part of the addon.
 *
 *   guest floor FILE PAGES THREADS EVERY_US       a child touches pages; this process serves it: poll, read, UFFDIO_COPY from the mapped file, no more
 *   guest copy FILE PAGES                         the file's bytes by one UFFDIO_COPY: how long that took
 *   guest client SOCKET PAGES THREADS EVERY_US    the same child, served by whoever listens: it says where its memory is in 16 bytes, address and length, with its
 *                                                 userfaultfd, and begins when it is sent a byte
 *
 * Touches every page once: THREADS threads, each its share in a random order, one page each EVERY_US microseconds (0: as fast as it can). With LIST in the
 * environment, a file of u32 page numbers, these in that order. One line of JSON: nanoseconds of a touch, percentiles; the time of all; a sum of what was read.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_THREADS = 64 };

static noreturn void fail(const char *what) {
  fprintf(stderr, "floor: %s: %s\n", what, errno == 0 ? "unexpected" : strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int open_uffd(void) {
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);
  }
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0) {
    fail("userfaultfd");
  }
  return fd;
}

static uint8_t *map_registered(int uffd, size_t len) {
  uint8_t *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fail("mmap");
  }
  madvise(memory, len, MADV_NOHUGEPAGE);
  struct uffdio_register range = {.range = {(uintptr_t)memory, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &range) != 0) {
    fail("UFFDIO_REGISTER");
  }
  return memory;
}

/* --- the guest --- */

typedef struct {
  pthread_t thread;
  volatile uint8_t *memory;
  const uint32_t *order;
  size_t count;
  uint64_t every_ns, sum;
  uint32_t *took; /* ns */
} toucher_t;

static void *touch_all(void *data) {
  toucher_t *self = data;
  uint64_t due = now_ns();
  for (size_t i = 0; i < self->count; i++) {
    if (self->every_ns > 0) {
      due += self->every_ns;
      struct timespec until = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    uint64_t begin = now_ns();
    self->sum += self->memory[(size_t)self->order[i] * PAGE];
    uint64_t took = now_ns() - begin;
    self->took[i] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
  }
  return NULL;
}

static int by_size(const void *a, const void *b) {
  uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
  return left < right ? -1 : left > right;
}

static uint32_t *read_list(const char *path, size_t *count) {
  FILE *file = fopen(path, "r");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
    fail(path);
  }
  *count = (size_t)ftell(file) / sizeof(uint32_t);
  rewind(file);
  uint32_t *list = malloc(*count * sizeof *list + 1);
  if (list == NULL || fread(list, sizeof *list, *count, file) != *count) {
    fail(path);
  }
  fclose(file);
  return list;
}

static uint32_t *random_order(size_t pages) {
  uint32_t *order = malloc(pages * sizeof *order + 1);
  uint64_t seed = 88172645463325252u;
  if (order == NULL) {
    fail("malloc");
  }
  for (size_t i = 0; i < pages; i++) {
    order[i] = (uint32_t)i;
  }
  for (size_t i = pages; i > 1; i--) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    size_t other = seed % i;
    uint32_t kept = order[i - 1];
    order[i - 1] = order[other];
    order[other] = kept;
  }
  return order;
}

static void be_guest(uint8_t *memory, size_t pages, size_t threads, uint64_t every_us) {
  const char *list = getenv("LIST");
  uint32_t *order = list != NULL ? read_list(list, &pages) : random_order(pages);
  uint32_t *took = calloc(pages + 1, sizeof *took);
  toucher_t touchers[MAX_THREADS];
  uint64_t sum = 0, begin = now_ns();
  for (size_t i = 0; i < threads; i++) {
    size_t from = pages * i / threads, to = pages * (i + 1) / threads;
    touchers[i] = (toucher_t){.memory = memory, .order = order + from, .count = to - from, .every_ns = every_us * 1000, .took = took + from};
    if (pthread_create(&touchers[i].thread, NULL, touch_all, &touchers[i]) != 0) {
      fail("pthread_create");
    }
  }
  for (size_t i = 0; i < threads; i++) {
    pthread_join(touchers[i].thread, NULL);
    sum += touchers[i].sum;
  }
  uint64_t all = now_ns() - begin;
  qsort(took, pages, sizeof *took, by_size);
  printf("{\"p50\":%u,\"p99\":%u,\"p999\":%u,\"most\":%u,\"allNs\":%llu,\"sum\":%llu}\n", took[pages / 2], took[pages * 99 / 100], took[pages * 999 / 1000],
         took[pages - 1], (unsigned long long)all, (unsigned long long)sum);
  fflush(stdout);
}

/* --- the floor of the daemon --- */

static const uint8_t *map_file(const char *path, size_t len) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (mapped == MAP_FAILED) {
    fail(path);
  }
  return mapped;
}

static void serve(int uffd, const uint8_t *memory, const uint8_t *file, pid_t child) {
  for (;;) {
    struct pollfd ready = {.fd = uffd, .events = POLLIN};
    struct uffd_msg message;
    if (poll(&ready, 1, 50) == 0) {
      int status;
      if (waitpid(child, &status, WNOHANG) == child) {
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
      }
      continue;
    }
    if (read(uffd, &message, sizeof message) != sizeof message || message.event != UFFD_EVENT_PAGEFAULT) {
      continue;
    }
    uint64_t page = message.arg.pagefault.address & ~(uint64_t)(PAGE - 1);
    struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)(file + (page - (uintptr_t)memory)), .len = PAGE};
    if (ioctl(uffd, UFFDIO_COPY, &copy) != 0 && errno != EEXIST) {
      fail("UFFDIO_COPY");
    }
  }
}

static void floor_of_daemon(const char *path, size_t pages, size_t threads, uint64_t every_us) {
  const uint8_t *file = map_file(path, pages * PAGE);
  int pair[2], uffd;
  uint8_t *memory;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    fail("socketpair");
  }
  pid_t child = fork();
  if (child == 0) {
    struct iovec part = {&memory, sizeof memory};
    char control[CMSG_SPACE(sizeof uffd)] = {0};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    uffd = open_uffd();
    memory = map_registered(uffd, pages * PAGE);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof uffd)};
    memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
    if (sendmsg(pair[1], &packet, 0) != sizeof memory) {
      fail("sendmsg");
    }
    be_guest(memory, pages, threads, every_us);
    exit(0);
  }
  struct iovec part = {&memory, sizeof memory};
  char control[CMSG_SPACE(sizeof uffd)];
  struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  if (recvmsg(pair[0], &packet, MSG_CMSG_CLOEXEC) != sizeof memory) {
    fail("recvmsg");
  }
  memcpy(&uffd, CMSG_DATA(CMSG_FIRSTHDR(&packet)), sizeof uffd);
  serve(uffd, memory, file, child);
}

static void copy_at_once(const char *path, size_t pages) {
  const uint8_t *file = map_file(path, pages * PAGE);
  int uffd = open_uffd();
  uint8_t *memory = map_registered(uffd, pages * PAGE);
  uint64_t begin = now_ns();
  struct uffdio_copy copy = {.dst = (uintptr_t)memory, .src = (uintptr_t)file, .len = pages * PAGE};
  if (ioctl(uffd, UFFDIO_COPY, &copy) != 0) {
    fail("UFFDIO_COPY");
  }
  printf("{\"allNs\":%llu}\n", (unsigned long long)(now_ns() - begin));
}

static void be_client(const char *path, size_t pages, size_t threads, uint64_t every_us) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int uffd = open_uffd(), line = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  uint8_t *memory = map_registered(uffd, pages * PAGE), byte;
  uint64_t where[2] = {(uintptr_t)memory, pages * PAGE};
  struct iovec part = {where, sizeof where};
  char control[CMSG_SPACE(sizeof uffd)] = {0};
  struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof uffd)};
  memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
  if (connect(line, (struct sockaddr *)&address, sizeof address) != 0 || sendmsg(line, &packet, 0) != sizeof where) {
    fail(path);
  }
  if (read(line, &byte, 1) != 1) {
    return; /* was not wanted after all */
  }
  be_guest(memory, pages, threads, every_us);
  while (read(line, &byte, 1) > 0) {
  }
}

int main(int count, char **words) {
  size_t pages = count > 3 ? strtoul(words[3], NULL, 10) : 0, threads = count > 4 ? strtoul(words[4], NULL, 10) : 1;
  uint64_t every_us = count > 5 ? strtoul(words[5], NULL, 10) : 0;
  if (pages == 0 || threads == 0 || threads > MAX_THREADS) {
    fprintf(stderr, "usage: guest floor|copy|client FILE|SOCKET PAGES [THREADS [EVERY_US]]\n");
    return 2;
  }
  if (strcmp(words[1], "floor") == 0) {
    floor_of_daemon(words[2], pages, threads, every_us);
  } else if (strcmp(words[1], "copy") == 0) {
    copy_at_once(words[2], pages);
  } else {
    be_client(words[2], pages, threads, every_us);
  }
  return 0;
}
