/*
 * The public header for programs that are paged: here the pager is a thread of the same process, over a real socket pair. It answers faults
 * with a pattern, counts what it hears, and misbehaves on request. Only the test's threads touch the paged memory.
 */
#define PAGEFAULT_GUEST_HELLO_TIMEOUT_MS 300
#include "../../include/pagefault_guest.h"

#include "support.h"

#include "../uapi.h"

#define REGIONS 4

typedef struct {
  int fd;           /* our end */
  int uffd[REGIONS];
  uint64_t address[REGIONS], length[REGIONS], offset[REGIONS];
  uint8_t region[PFG_MESSAGE]; /* the last one, as it came */
  _Atomic int regions, faults, removes, unmaps, dropped, drop_status;
  _Atomic int version; /* changes the bytes */
  _Atomic int refuse;  /* errno for the next regions, -1: no answer */
  _Atomic int stop;
  pthread_t thread;
} pager_t;

static pagefault_guest guest;
static _Thread_local uint8_t page_bytes[1 << 16];

static uint8_t byte_at(uint64_t offset, int version) { return (uint8_t)(pattern(offset) + version); }

/* --- the pager's thread ---------------------------------------------------------------------------------------------------- */

static void answer_region(pager_t *pager, const uint8_t *message, int uffd) {
  uint8_t ack[PFG_MESSAGE] = {0};
  int i = atomic_load(&pager->regions);
  memcpy(pager->region, message, PFG_MESSAGE);
  if (pager->refuse != 0) {
    close(uffd);
  } else {
    pager->uffd[i] = uffd;
    pager->address[i] = pfg_get64(message + 8);
    pager->length[i] = pfg_get64(message + 16);
    pager->offset[i] = pfg_get64(message + 24);
    atomic_store(&pager->regions, i + 1);
  }
  pfg_put32(ack, PFG_MAGIC);
  pfg_put32(ack + 4, PFG_ACK);
  pfg_put64(ack + 8, pfg_get64(message + 8));
  pfg_put32(ack + 16, (uint32_t)pager->refuse);
  pfg_put32(ack + 60, pfg_get32(message + 60));
  if (pager->refuse >= 0) {
    must(write(pager->fd, ack, sizeof ack) == sizeof ack, "an ACK");
  }
}

static void read_message(pager_t *pager) {
  uint8_t message[PFG_MESSAGE];
  char control[CMSG_SPACE(sizeof(int))];
  struct iovec part = {message, sizeof message};
  struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t got = recvmsg(pager->fd, &packet, MSG_CMSG_CLOEXEC);
  if (got <= 0) {
    atomic_store(&pager->stop, 1);
    return;
  }
  must(got == PFG_MESSAGE && pfg_get32(message) == PFG_MAGIC, "a whole message");
  struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
  if (pfg_get32(message + 4) == PFG_REGION) {
    int uffd;
    must(header != NULL && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof uffd), "one descriptor");
    memcpy(&uffd, CMSG_DATA(header), sizeof uffd);
    answer_region(pager, message, uffd);
  } else {
    EXPECT_EQ(pfg_get32(message + 4), PFG_DROPPED);
    EXPECT(header == NULL);
    atomic_store(&pager->drop_status, (int)pfg_get32(message + 24));
    atomic_fetch_add(&pager->dropped, 1);
  }
}

static void serve_fault(pager_t *pager, int i, uint64_t address) {
  uint64_t start = address & ~(uint64_t)(PAGE - 1);
  for (size_t at = 0; at < PAGE; at++) {
    page_bytes[at] = byte_at(pager->offset[i] + start - pager->address[i] + at, atomic_load(&pager->version));
  }
  struct pf_uffdio_copy copy = {.dst = start, .src = (uintptr_t)page_bytes, .len = PAGE};
  while (ioctl(pager->uffd[i], PF_UFFDIO_COPY, &copy) != 0 && errno == EAGAIN) {
    copy.copy = 0;
  }
  atomic_fetch_add(&pager->faults, 1);
}

static void read_event(pager_t *pager, int i) {
  uint8_t event[PF_UFFD_MESSAGE_BYTES];
  if (read(pager->uffd[i], event, sizeof event) != sizeof event) {
    return;
  }
  switch (event[0]) {
    case 0x12: serve_fault(pager, i, pfg_get64(event + 16)); break;
    case 0x15: atomic_fetch_add(&pager->removes, 1); break;
    case 0x16: atomic_fetch_add(&pager->unmaps, 1); break;
    default: EXPECT_EQ(event[0], 0x12);
  }
}

static void *pager_loop(void *data) {
  pager_t *pager = data;
  while (!atomic_load(&pager->stop)) {
    struct pollfd polled[1 + REGIONS] = {{.fd = pager->fd, .events = POLLIN}};
    int regions = atomic_load(&pager->regions);
    for (int i = 0; i < regions; i++) {
      polled[1 + i] = (struct pollfd){.fd = pager->uffd[i], .events = POLLIN};
    }
    poll(polled, (nfds_t)(1 + regions), 20);
    for (int i = 0; i < regions; i++) {
      if ((polled[1 + i].revents & POLLIN) != 0) {
        read_event(pager, i);
      }
    }
    if (polled[0].revents != 0) {
      read_message(pager);
    }
  }
  return NULL;
}

/* --- set-up ---------------------------------------------------------------------------------------------------------------- */

static void hello(uint8_t *message, uint32_t flags, uint32_t page_size, uint32_t ack_ms) {
  memset(message, 0, PFG_MESSAGE);
  pfg_put32(message, PFG_MAGIC);
  pfg_put32(message + 4, PFG_HELLO);
  pfg_put32(message + 8, 1);
  pfg_put32(message + 12, flags);
  pfg_put64(message + 16, 1 << 20);
  pfg_put32(message + 24, page_size);
  pfg_put32(message + 28, ack_ms);
}

/* Connects with the first `len` bytes of a hello; our end is left in *ours. */
static int connect_with(const uint8_t *message, size_t len, int *ours) {
  int pair[2];
  char number[16];
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "a socket pair");
  must(write(pair[0], message, len) == (ssize_t)len, "a hello");
  snprintf(number, sizeof number, "%d", pair[1]);
  setenv("PAGEFAULT_GUEST_FD", number, 1);
  *ours = pair[0];
  return pagefault_guest_connect(&guest);
}

static void start_with(pager_t *pager, uint32_t flags, uint32_t page_size, uint32_t ack_ms) {
  uint8_t message[PFG_MESSAGE];
  memset(pager, 0, sizeof *pager);
  hello(message, flags, page_size, ack_ms);
  must(connect_with(message, sizeof message, &pager->fd) == 0, "a connection");
  must(pthread_create(&pager->thread, NULL, pager_loop, pager) == 0, "a thread");
}

/* Nothing must be paged any more. */
static void stop(pager_t *pager) {
  EXPECT_EQ(pagefault_guest_disconnect(&guest), 0);
  atomic_store(&pager->stop, 1);
  pthread_join(pager->thread, NULL);
  for (int i = 0; i < pager->regions; i++) {
    close(pager->uffd[i]);
  }
  close(pager->fd);
}

/* The first byte that is not the store's, or len. */
UNWATCHED static uint64_t wrong_byte(const void *memory, uint64_t offset, size_t len, int version) {
  const volatile uint8_t *bytes = memory;
  for (size_t i = 0; i < len; i++) {
    if (bytes[i] != byte_at(offset + i, version)) {
      return i;
    }
  }
  return len;
}

static bool soon(_Atomic int *value, int wanted) {
  for (int i = 0; i < LONG_MS && atomic_load(value) != wanted; i++) {
    usleep(1000);
  }
  return atomic_load(value) == wanted;
}

/* --- the tests ------------------------------------------------------------------------------------------------------------- */

static void serves_pages(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  void *memory;
  unsigned fds = count_descriptors();
  start_with(&pager, 0, 0, 0);
  EXPECT(getenv("PAGEFAULT_GUEST_FD") == NULL);
  EXPECT_EQ(pagefault_guest_connect(&guest), -EISCONN);
  EXPECT_EQ(pagefault_guest_store_length(&guest), 1 << 20);
  EXPECT_EQ(pagefault_guest_page_size(&guest), PAGE);
  EXPECT_EQ(pagefault_guest_map(&guest, 64 * PAGE - 5, 3 * PAGE, &memory), 0);
  EXPECT_EQ(pager.faults, 0);
  EXPECT_EQ(wrong_byte(memory, 3 * PAGE, 64 * PAGE, 0), 64 * PAGE);
  EXPECT(soon(&pager.faults, 64));
  EXPECT_EQ(pfg_get64(pager.region + 8), (uintptr_t)memory);
  EXPECT_EQ(pfg_get64(pager.region + 16), 64 * PAGE);
  EXPECT_EQ(pfg_get64(pager.region + 24), 3 * PAGE);
  EXPECT_EQ(pfg_get32(pager.region + 32), PAGE);
  EXPECT_EQ(pfg_get32(pager.region + 36), (unsigned)pagefault_guest_user_mode_only(&guest, memory));
  EXPECT((pfg_get64(pager.region + 40) & PFG_FEATURE_REMOVE) != 0);
  EXPECT((pfg_get64(pager.region + 48) & 1 << 3) != 0);
  EXPECT_EQ(pfg_get32(pager.region + 56), PAGEFAULT_GUEST_MMAP);
  EXPECT_EQ(pfg_get32(pager.region + 60), 1);
  EXPECT_EQ(pagefault_guest_disconnect(&guest), -EBUSY);
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), -ENOENT);
  EXPECT(soon(&pager.unmaps, 1));
  stop(&pager);
  EXPECT_EQ(pagefault_guest_connect(&guest), -ENOENT);
  EXPECT_EQ(count_descriptors(), fds);
}

static void *memory_of(unsigned kind, size_t len) {
  int memfd;
  void *memory;
  switch (kind) {
    case PAGEFAULT_GUEST_MALLOC:
      return aligned_alloc(PAGE, len);
    case PAGEFAULT_GUEST_BRK:
      sbrk((intptr_t)(PAGE - (uintptr_t)sbrk(0) % PAGE));
      return sbrk((intptr_t)len);
    case PAGEFAULT_GUEST_SHM:
      memfd = memfd_create("shm", MFD_CLOEXEC);
      must(memfd >= 0 && ftruncate(memfd, (off_t)len) == 0, "a memfd");
      memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
      close(memfd);
      return memory;
    default:
      return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
}

static void drop(pager_t *pager, const void *memory, uint64_t len, uint32_t serial) {
  uint8_t order[PFG_MESSAGE] = {0};
  pfg_put32(order, PFG_MAGIC);
  pfg_put32(order + 4, PFG_DROP);
  pfg_put64(order + 8, (uintptr_t)memory);
  pfg_put64(order + 16, len);
  pfg_put32(order + 60, serial);
  must(write(pager->fd, order, sizeof order) == sizeof order, "a DROP");
}

UNWATCHED static void dirty(void *memory, size_t len) {
  for (size_t i = 0; i < len; i++) {
    ((volatile uint8_t *)memory)[i] = 0xAA;
  }
}

/* Old contents go, pages come, go by DROP and come again, for memory of every kind. */
static void every_kind(pf_backend_t backend) {
  (void)backend;
  static const unsigned kinds[] = {PAGEFAULT_GUEST_OTHER, PAGEFAULT_GUEST_MMAP, PAGEFAULT_GUEST_MALLOC, PAGEFAULT_GUEST_BRK,
                                   PAGEFAULT_GUEST_SHM};
  size_t len = 16 * PAGE;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    pager_t pager;
    start_with(&pager, 2, 0, 0);
    uint8_t *memory = memory_of(kinds[i], len);
    must(memory != NULL && memory != MAP_FAILED, "memory");
    dirty(memory, len);
    EXPECT_EQ(pagefault_guest_page(&guest, memory, len, 0, kinds[i]), 0);
    EXPECT_EQ(pfg_get32(pager.region + 56), kinds[i]);
    EXPECT_EQ((pfg_get32(pager.region + 36) & 2) != 0, kinds[i] == PAGEFAULT_GUEST_SHM);
    EXPECT_EQ(wrong_byte(memory, 0, len, 0), len);
    atomic_store(&pager.version, 1);
    drop(&pager, memory + 2 * PAGE, 3 * PAGE, 77);
    EXPECT(soon(&pager.dropped, 1));
    EXPECT_EQ(pager.drop_status, 0);
    EXPECT_EQ(pager.removes, 3); /* page by page: each is one event, whatever other threads do to the mapping meanwhile */
    EXPECT_EQ(wrong_byte(memory, 0, 2 * PAGE, 0), 2 * PAGE);
    EXPECT_EQ(wrong_byte(memory + 2 * PAGE, 2 * PAGE, 3 * PAGE, 1), 3 * PAGE);
    EXPECT_EQ(wrong_byte(memory + 5 * PAGE, 5 * PAGE, PAGE, 0), PAGE);
    drop(&pager, memory + 15 * PAGE, 2 * PAGE, 78); /* reaches past the region */
    EXPECT(soon(&pager.dropped, 2));
    EXPECT_EQ(pager.drop_status, EINVAL);
    EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
    if (kinds[i] == PAGEFAULT_GUEST_MALLOC || kinds[i] == PAGEFAULT_GUEST_BRK) {
      EXPECT_EQ(touch_address(memory), 0);
    }
    if (kinds[i] == PAGEFAULT_GUEST_MALLOC) {
      free(memory);
    }
    stop(&pager);
  }
}

/* More orders than the queue holds, all answered. */
static void many_drops(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  void *memory;
  start_with(&pager, 2, 0, 0);
  EXPECT_EQ(pagefault_guest_map(&guest, 4 * PAGE, 0, &memory), 0);
  for (uint32_t i = 0; i < 400; i++) {
    drop(&pager, memory, PAGE, i);
  }
  EXPECT(soon(&pager.dropped, 400));
  EXPECT_EQ(wrong_byte(memory, 0, 4 * PAGE, 0), 4 * PAGE);
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  stop(&pager);
}

static bool is_accessible(const void *memory) {
  int pipes[2];
  must(pipe2(pipes, O_CLOEXEC) == 0, "a pipe");
  ssize_t written = write(pipes[1], memory, 1);
  close(pipes[0]);
  close(pipes[1]);
  return written == 1;
}

static void refused_is_undone(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  start_with(&pager, 0, 0, 0);
  unsigned fds = count_descriptors();
  static const int answers[] = {EPERM, -1};
  for (int i = 0; i < 2; i++) {
    pagefault_guest_stage stage = PAGEFAULT_GUEST_AT_ARGUMENTS;
    void *memory = memory_of(PAGEFAULT_GUEST_MMAP, 4 * PAGE), *mapped = memory;
    pager.refuse = answers[i];
    guest.ack_timeout_ms = answers[i] < 0 ? 200 : 30000; /* short only where no answer comes */
    int err = pagefault_guest_page_at(&guest, memory, 4 * PAGE, 0, PAGEFAULT_GUEST_MMAP, &stage);
    EXPECT_EQ(err, i == 0 ? -EPERM : -ETIMEDOUT);
    EXPECT_EQ(stage, PAGEFAULT_GUEST_AT_PAGER);
    EXPECT(!is_accessible(memory));
    EXPECT_EQ(mprotect(memory, 4 * PAGE, PROT_READ | PROT_WRITE), 0);
    EXPECT_EQ(touch_address(memory), 0); /* not registered, else this would wait */
    EXPECT_EQ(pagefault_guest_map(&guest, 4 * PAGE, 0, &mapped), err);
    EXPECT(mapped == NULL);
    pager.refuse = 0;
    guest.ack_timeout_ms = 30000;
    EXPECT_EQ(pagefault_guest_page(&guest, memory, 4 * PAGE, 0, PAGEFAULT_GUEST_MMAP), 0);
    EXPECT_EQ(wrong_byte(memory, 0, 4 * PAGE, 0), 4 * PAGE);
    EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  }
  EXPECT_EQ(count_descriptors(), fds + 2); /* the pager's, of the two that were served */
  stop(&pager);
}

/* Arguments that are wrong cost no contents. */
static void wrong_arguments(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  void *memory = memory_of(PAGEFAULT_GUEST_MMAP, 4 * PAGE), *other;
  uint8_t *bytes = memory;
  dirty(memory, 4 * PAGE);
  memset(&guest, 0, sizeof guest);
  EXPECT_EQ(pagefault_guest_page(&guest, memory, PAGE, 0, 0), -ENOTCONN);
  EXPECT_EQ(pagefault_guest_disconnect(&guest), -ENOTCONN);
  start_with(&pager, 0, 0, 0);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes + 1, PAGE, 0, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, PAGE + 1, 0, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, 0, 0, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, PAGE, 0, 6), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, PAGE, 0, 1 << 10), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, PAGE, UINT64_MAX, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, SIZE_MAX & ~(PAGE - 1), 0, 0), -EINVAL);
  uintptr_t own = (uintptr_t)&guest & ~(uintptr_t)(PAGE - 1), stack = (uintptr_t)&pager & ~(uintptr_t)(PAGE - 1);
  EXPECT_EQ(pagefault_guest_page(&guest, (void *)own, PAGE, 0, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_page(&guest, (void *)(stack - 16 * PAGE), 32 * PAGE, 0, 0), -EINVAL);
  EXPECT_EQ(pagefault_guest_map(&guest, 0, 0, &other), -EINVAL);
  EXPECT_EQ(pagefault_guest_map(&guest, SIZE_MAX, 0, &other), -EINVAL);
  EXPECT_EQ(touch_address(bytes), 0xAA);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes, 2 * PAGE, 0, 0), 0);
  EXPECT_EQ(pagefault_guest_page(&guest, bytes + PAGE, 2 * PAGE, 0, 0), -EBUSY);
  EXPECT_EQ(touch_address(bytes + 2 * PAGE), 0xAA);
  EXPECT_EQ(pagefault_guest_unpage(&guest, bytes + PAGE), -ENOENT);
  EXPECT_EQ(pagefault_guest_unpage(&guest, bytes), 0);
  pagefault_guest_stage stage;
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* a file cannot be paged, and stays as it was */
  uint8_t *mapped = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
  EXPECT_EQ(pagefault_guest_page_at(&guest, mapped, PAGE, 0, 0, &stage), -EINVAL);
  EXPECT_EQ(stage, PAGEFAULT_GUEST_AT_REGISTER);
  EXPECT_EQ(touch_address(mapped), 0x7f);
  munmap(mapped, PAGE);
  close(file);
  munmap(bytes + 2 * PAGE, 2 * PAGE);
  stop(&pager);
}

static void wrong_hellos(pf_backend_t backend) {
  (void)backend;
  uint8_t message[PFG_MESSAGE];
  int ours;
  static const struct {
    int at, value, len, wanted;
  } cases[] = {
      {0, 'Q', 64, -EPROTO}, {4, 2, 64, -EPROTO},     {8, 2, 64, -EPROTONOSUPPORT}, {24, 3, 64, -EPROTO},
      {0, 'P', 32, -ETIMEDOUT}, {0, 'P', 0, -ETIMEDOUT},
  };
  unsigned fds = count_descriptors();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hello(message, 0, 0, 0);
    message[cases[i].at] = (uint8_t)cases[i].value;
    uint64_t started = pf_now_ns();
    EXPECT_EQ(connect_with(message, (size_t)cases[i].len, &ours), cases[i].wanted);
    EXPECT(pf_now_ns() - started < SOON);
    EXPECT(getenv("PAGEFAULT_GUEST_FD") == NULL);
    EXPECT_EQ(pagefault_guest_page(&guest, page_bytes, PAGE, 0, 0), -ENOTCONN);
    close(ours);
  }
  static const char *const variables[] = {"", "x", "7x", "-1", "99999999999", "999", "F"};
  static const int wanted[] = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF, -ENOTSOCK};
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char number[16];
    snprintf(number, sizeof number, "%d", file);
    setenv("PAGEFAULT_GUEST_FD", variables[i][0] == 'F' ? number : variables[i], 1);
    EXPECT_EQ(pagefault_guest_connect(&guest), wanted[i]);
    EXPECT(getenv("PAGEFAULT_GUEST_FD") == NULL);
    EXPECT_EQ(close(file), 0); /* not ours: not closed */
  }
  EXPECT_EQ(count_descriptors(), fds);
}

static void the_wished_page_size(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  void *memory;
  start_with(&pager, 1, 1 << 16, 0);
  EXPECT_EQ(pagefault_guest_page_size(&guest), 1 << 16);
  EXPECT_EQ(pagefault_guest_map(&guest, 100, 0, &memory), 0);
  EXPECT_EQ((uintptr_t)memory % (1 << 16), 0);
  EXPECT_EQ(pfg_get64(pager.region + 16), 1 << 16);
  EXPECT_EQ(pfg_get32(pager.region + 32), 1 << 16);
  EXPECT((pfg_get32(pager.region + 36) & 4) != 0);
  EXPECT((pfg_get64(pager.region + 40) & 1) != 0);
  EXPECT((pfg_get64(pager.region + 48) & 1 << 6) != 0);
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  EXPECT_EQ(pagefault_guest_map(&guest, 100, PAGE, &memory), 0); /* in the middle of such a page of the store */
  EXPECT_EQ(pfg_get32(pager.region + 32), PAGE);
  EXPECT_EQ(wrong_byte(memory, PAGE, PAGE, 0), PAGE);
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  uint8_t *own = memory_of(PAGEFAULT_GUEST_SHM, 32 * PAGE);
  uint8_t *odd = (uintptr_t)own % (1 << 16) == 0 ? own + PAGE : own;
  EXPECT_EQ(pagefault_guest_page(&guest, odd, PAGE, 0, PAGEFAULT_GUEST_SHM), 0);
  EXPECT_EQ(pfg_get32(pager.region + 32), PAGE);
  EXPECT_EQ(wrong_byte(odd, 0, PAGE, 0), PAGE);
  EXPECT_EQ(pagefault_guest_unpage(&guest, odd), 0);
  munmap(own, 32 * PAGE);
  stop(&pager);
}

typedef struct {
  void *memory;
  pthread_barrier_t *together;
  uint64_t wrong;
} toucher_t;

static void *touch_all(void *data) {
  toucher_t *toucher = data;
  pthread_barrier_wait(toucher->together);
  toucher->wrong = 32 * PAGE - wrong_byte(toucher->memory, 0, 32 * PAGE, 0);
  return NULL;
}

static void eight_threads(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  void *memory;
  pthread_t threads[8];
  toucher_t touchers[8];
  pthread_barrier_t together;
  start_with(&pager, 0, 0, 0);
  EXPECT_EQ(pagefault_guest_map(&guest, 32 * PAGE, 0, &memory), 0);
  pthread_barrier_init(&together, NULL, 8);
  for (int i = 0; i < 8; i++) {
    touchers[i] = (toucher_t){memory, &together, 0};
    must(pthread_create(&threads[i], NULL, touch_all, &touchers[i]) == 0, "a thread");
  }
  for (int i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
    EXPECT_EQ(touchers[i].wrong, 0);
  }
  EXPECT_EQ(pagefault_guest_unpage(&guest, memory), 0);
  stop(&pager);
}

static void *map_and_end(void *data) {
  int *failures = data;
  for (int i = 0; i < 20; i++) {
    void *memory;
    int err = pagefault_guest_map(&guest, 2 * PAGE, 0, &memory);
    *failures += err != 0 || wrong_byte(memory, 0, PAGE, 0) != PAGE || pagefault_guest_unpage(&guest, memory) != 0;
  }
  return NULL;
}

/* The pager of this test has room for few regions, so it forgets the oldest ones. */
static void *forgetful_pager(void *data) {
  pager_t *pager = data;
  while (!atomic_load(&pager->stop)) {
    struct pollfd polled[1 + REGIONS] = {{.fd = pager->fd, .events = POLLIN}};
    for (int i = 0; i < REGIONS; i++) {
      polled[1 + i] = (struct pollfd){.fd = i < pager->regions ? pager->uffd[i] : -1, .events = POLLIN};
    }
    poll(polled, 1 + REGIONS, 20);
    for (int i = 0; i < REGIONS; i++) {
      int unmaps = pager->unmaps;
      if ((polled[1 + i].revents & POLLIN) != 0) {
        read_event(pager, i);
      }
      if (pager->unmaps != unmaps) {
        close(pager->uffd[i]);
        int last = --pager->regions;
        pager->uffd[i] = pager->uffd[last];
        pager->address[i] = pager->address[last];
        pager->offset[i] = pager->offset[last];
        break;
      }
    }
    if (polled[0].revents != 0) {
      read_message(pager);
    }
  }
  return NULL;
}

static void many_at_once(pf_backend_t backend) {
  (void)backend;
  pager_t pager = {0};
  pthread_t threads[REGIONS];
  int failures[REGIONS] = {0};
  uint8_t message[PFG_MESSAGE];
  hello(message, 0, 0, 0);
  must(connect_with(message, sizeof message, &pager.fd) == 0, "a connection");
  must(pthread_create(&pager.thread, NULL, forgetful_pager, &pager) == 0, "a thread");
  for (int i = 0; i < REGIONS; i++) {
    must(pthread_create(&threads[i], NULL, map_and_end, &failures[i]) == 0, "a thread");
  }
  for (int i = 0; i < REGIONS; i++) {
    pthread_join(threads[i], NULL);
    EXPECT_EQ(failures[i], 0);
  }
  stop(&pager);
}

static void *disconnect(void *together) {
  pthread_barrier_wait(together);
  return (void *)(intptr_t)pagefault_guest_disconnect(&guest);
}

static void disconnected_by_two(pf_backend_t backend) {
  (void)backend;
  pthread_barrier_t together;
  pthread_barrier_init(&together, NULL, 2);
  for (int round = 0; round < 200; round++) {
    uint8_t message[PFG_MESSAGE];
    int ours;
    pthread_t thread;
    void *theirs;
    hello(message, 0, 0, 0);
    must(connect_with(message, sizeof message, &ours) == 0 && pthread_create(&thread, NULL, disconnect, &together) == 0, "a connection");
    intptr_t mine = (intptr_t)disconnect(&together);
    pthread_join(thread, &theirs);
    EXPECT_EQ(mine + (intptr_t)theirs, -ENOTCONN); /* one of them, and the other has ended it */
    close(ours);
  }
}

/* Without a region the process outlives its pager. */
static void pager_gone_before(pf_backend_t backend) {
  (void)backend;
  uint8_t message[PFG_MESSAGE];
  int ours;
  void *memory;
  hello(message, 0, 0, 0);
  must(connect_with(message, sizeof message, &ours) == 0, "a connection");
  close(ours);
  EXPECT_EQ(pagefault_guest_map(&guest, PAGE, 0, &memory), -EPIPE);
  EXPECT_EQ(pagefault_guest_disconnect(&guest), 0);
}

static int in_child(void (*body)(void)) {
  int status;
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    signal(SIGSEGV, SIG_DFL); /* sanitizers have handlers */
    alarm(patience(20));
    body();
    _exit(0);
  }
  must(waitpid(pid, &status, 0) == pid, "waitpid");
  return status;
}

/* The pager ends while one thread waits for a page and it has ordered a drop that it will not hear of. */
static void lose_the_pager(void) {
  pager_t pager;
  void *memory;
  int null = open("/dev/null", O_WRONLY);
  dup2(null, STDERR_FILENO);
  start_with(&pager, 2, 0, 0);
  must(pagefault_guest_map(&guest, 4 * PAGE, 0, &memory) == 0, "a region");
  must(wrong_byte(memory, 0, PAGE, 0) == PAGE, "its bytes");
  atomic_store(&pager.stop, 1);
  pthread_join(pager.thread, NULL);
  drop(&pager, memory, PAGE, 1);
  usleep(50000);
  close(pager.uffd[0]);
  close(pager.fd);
  touch_address((uint8_t *)memory + PAGE);
}

static void pager_gone(pf_backend_t backend) {
  (void)backend;
  int status = in_child(lose_the_pager);
  EXPECT(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

static void *paged;
static void touch_paged(void) { touch_address(paged); }
static void use_forked(void) {
  void *memory;
  bool closed = fcntl(guest.fd, F_GETFD) == -1 && fcntl(guest.regions[0].uffd, F_GETFD) == -1;
  _exit(closed && pagefault_guest_map(&guest, PAGE, 0, &memory) == -ECHILD ? 0 : 1);
}

static void forked(pf_backend_t backend) {
  (void)backend;
  pager_t pager;
  start_with(&pager, 0, 0, 0);
  EXPECT_EQ(pagefault_guest_map(&guest, PAGE, 0, &paged), 0);
  int status = in_child(touch_paged);
  EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
  EXPECT_EQ(in_child(use_forked), 0);
  EXPECT_EQ(wrong_byte(paged, 0, PAGE, 0), PAGE);
  EXPECT_EQ(pagefault_guest_unpage(&guest, paged), 0);
  stop(&pager);
}

#define RUN(sentence, body) run_one(sentence, "", body, PF_BACKEND_SIGNAL)

int main(void) {
  if (!backend_works(PF_BACKEND_SIGNAL)) {
    tests_skipped++;
    return summary();
  }
  if (!TSAN) { /* it cannot fork a process with threads; these fork before there are any, or look at what a fork has */
    RUN("a process whose pager is gone is killed", pager_gone);
    RUN("a forked process has none of it", forked);
  }
  RUN("pages are served, and REGION says what was agreed", serves_pages);
  RUN("memory of every kind is emptied, paged, dropped and given back", every_kind);
  RUN("400 drops at once are all answered", many_drops);
  RUN("a region that is refused or not answered is undone", refused_is_undone);
  RUN("wrong arguments are refused and cost no contents", wrong_arguments);
  RUN("a wrong hello is refused in time", wrong_hellos);
  RUN("the page size that the pager wishes for is used where it fits", the_wished_page_size);
  RUN("eight threads fault at once", eight_threads);
  RUN("four threads map and end regions at once", many_at_once);
  RUN("a connection that two threads end at once is ended once", disconnected_by_two);
  RUN("a process without regions outlives its pager", pager_gone_before);
  return summary();
}
