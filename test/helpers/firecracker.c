/*
 * Firecracker as seen from the socket of its Uffd backend: maps guest memory, opens the userfaultfd and sends the handshake as a release of that
 * era does, and then is a guest that does what it is told on stdin, one line an order, one line an answer.
 *
 *   firecracker SOCKET [--era 1.1|1.7|1.12|memfd|secret] [--regions BYTES,BYTES…] [--copies N] [--page BYTES] [--no-balloon] [--thp]
 *               [--thread-id (what Firecracker does not: faults tell their thread)]
 *               [--body TEXT (@N: address of region N)] [--fds uffd,memfd,file…|none] [--split BYTES] [--pause (after the first
 *               part, until there is a line on stdin)] [--die mapped|connected|sent]
 *
 * With copies it has all of its memory several times, each with a userfaultfd of its own, and sends as many handshakes. An order names a place by its
 * offset in the snapshot, of copy N by N times the snapshot's length more.
 *
 * The memory's words are a formula of their place in the snapshot (fillStored of test/helpers/guest-program.ts), so that `verify` needs no file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_REGIONS 64
#define MOST_COPIES 8
#define MOST_FDS 253
#define MOST_THREADS 64
#define HUGE ((uintptr_t)1 << 21)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since 6.1 */
#endif

typedef struct {
  uint8_t *address;
  size_t size;
  size_t offset; /* in the snapshot, and a snapshot's length more for each copy before */
} region_t;

static struct {
  const char *socket, *era, *body, *fds, *die;
  size_t page, split;
  int balloon, thp, copies, thread_id, pause;
} asked = {.era = "1.12", .page = 4096, .balloon = 1, .copies = 1};

static region_t regions[MOST_REGIONS];
static int region_count, uffds[MOST_COPIES], memory_fd = -1, connection = -1, user_mode_only;
static size_t total; /* bytes of the snapshot */

/* Regions of one copy; those of the next follow. */
static int per_copy(void) { return region_count / asked.copies; }

static void fail(const char *what) {
  printf("failed %s: %s\n", what, strerror(errno));
  fflush(stdout);
  _exit(9);
}

/* --- memory and its userfaultfd --------------------------------------------------------------------------------------------------- */

static int era_is(const char *era) { return strcmp(asked.era, era) == 0; }

static void map_regions(void) {
  size_t offset = 0;
  int huge = asked.page > 4096;
  if (era_is("memfd") || era_is("secret")) {
    memory_fd = memfd_create("guest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
    if (memory_fd < 0 || ftruncate(memory_fd, (off_t)total * asked.copies) != 0) {
      fail("memfd");
    }
  }
  for (int i = 0; i < region_count; i++) {
    int flags = memory_fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (huge ? MAP_HUGETLB : 0);
    size_t more = asked.thp ? HUGE : 0; /* for an address that a huge page may begin at: before 6.7 the kernel looks for none by itself */
    void *address = mmap(NULL, regions[i].size + more, PROT_READ | PROT_WRITE, flags, memory_fd, memory_fd >= 0 ? (off_t)offset : 0);
    if (address == MAP_FAILED) {
      fail("mmap");
    }
    if (asked.thp) {
      address = (void *)(((uintptr_t)address + HUGE - 1) & ~(HUGE - 1));
      madvise(address, regions[i].size, MADV_HUGEPAGE);
    }
    regions[i].address = address;
    regions[i].offset = offset;
    offset += regions[i].size;
    mmap(NULL, asked.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB | MAP_NORESERVE : 0), -1, 0); /* a gap, mostly */
  }
}

/* As Firecracker does: the device first, then the system call. Without the right to it what is left: faults of instructions only. */
static int open_uffd(void) {
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    if (fd >= 0) {
      return fd;
    }
  }
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    user_mode_only = 1;
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  }
  return fd;
}

static void register_regions(int copy) {
  struct uffdio_api api = {.api = UFFD_API, .features = asked.balloon ? UFFD_FEATURE_EVENT_REMOVE : 0};
  api.features |= asked.thread_id ? UFFD_FEATURE_THREAD_ID : 0;
  int uffd = uffds[copy] = open_uffd();
  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) != 0) {
    fail("userfaultfd");
  }
  for (int i = copy * per_copy(); i < (copy + 1) * per_copy(); i++) {
    struct uffdio_register range = {.range = {(uintptr_t)regions[i].address, regions[i].size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &range) != 0) {
      fail("UFFDIO_REGISTER");
    }
  }
}

/* --- the handshake ---------------------------------------------------------------------------------------------------------------- */

static char body[1 << 20];

/* The JSON of each era; `asked.body` instead, with @N for the address of region N. */
static void write_body(int copy) {
  char *at = body;
  if (asked.body != NULL) {
    for (const char *from = asked.body; *from != 0;) {
      if (*from == '@') {
        at += sprintf(at, "%lu", (unsigned long)(uintptr_t)regions[atoi(from + 1) % MOST_REGIONS].address);
        from += 1 + strspn(from + 1, "0123456789");
      } else {
        *at++ = *from++;
      }
    }
    *at = 0;
    return;
  }
  at += sprintf(at, "[");
  for (int i = copy * per_copy(); i < (copy + 1) * per_copy(); i++) {
    at += sprintf(at, "%s{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":%zu", i > copy * per_copy() ? "," : "",
                  (unsigned long)(uintptr_t)regions[i].address, regions[i].size, regions[i].offset - (size_t)copy * total);
    if (era_is("1.7")) {
      at += sprintf(at, ",\"page_size_kib\":%zu", asked.page); /* in bytes, whatever it is called */
    } else if (!era_is("1.1")) {
      at += sprintf(at, ",\"page_size\":%zu,\"page_size_kib\":%zu", asked.page, asked.page);
    }
    if (era_is("secret")) {
      at += sprintf(at, ",\"gpa_start\":%zu,\"is_guest_memfd\":true", regions[i].offset);
    }
    at += sprintf(at, "}");
  }
  sprintf(at, "]");
}

static int descriptors(int copy, int *fds) {
  int count = 0, uffd = uffds[copy];
  const char *names = asked.fds != NULL ? asked.fds : era_is("memfd") ? "uffd,memfd" : era_is("secret") ? "uffd,memfd,bitmap" : "uffd";
  for (const char *name = names; *name != 0; name += strcspn(name, ","), name += *name == ',') {
    if (strncmp(name, "uffd", 4) == 0) {
      fds[count++] = uffd;
    } else if (strncmp(name, "memfd", 5) == 0) {
      fds[count++] = memory_fd >= 0 ? memory_fd : memfd_create("other", MFD_CLOEXEC);
    } else if (strncmp(name, "bitmap", 6) == 0) {
      fds[count++] = memfd_create("bitmap", MFD_CLOEXEC);
    } else if (strncmp(name, "unshaken", 8) == 0) {
      fds[count++] = open_uffd();
    } else if (strncmp(name, "blocking", 8) == 0) {
      fcntl(uffd, F_SETFL, 0);
      fds[count++] = uffd;
    } else if (strncmp(name, "file", 4) == 0) {
      fds[count++] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    } else if (strncmp(name, "many", 4) == 0) {
      while (count < MOST_FDS) {
        fds[count++] = 0;
      }
    }
  }
  return count;
}

static void send_part(const char *bytes, size_t len, const int *fds, int count) {
  static char control[CMSG_SPACE(MOST_FDS * sizeof(int))];
  struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
  }
  while (len > 0) {
    ssize_t sent = sendmsg(connection, &message, MSG_NOSIGNAL);
    if (sent < 0) {
      fail("sendmsg");
    }
    len -= (size_t)sent;
    part.iov_base = (char *)part.iov_base + sent;
    part.iov_len = len;
    message.msg_control = NULL;
    message.msg_controllen = 0;
  }
}

static void dies(const char *step) {
  if (asked.die != NULL && strcmp(asked.die, step) == 0) {
    raise(SIGKILL);
  }
}

static void connect_to(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, asked.socket, sizeof address.sun_path - 1);
  connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0) {
    fail("connect");
  }
}

static void shake_hands(int copy) {
  int fds[MOST_FDS], count;
  size_t len, step;
  dies("mapped");
  if (connection < 0) {
    connect_to();
  }
  dies("connected");
  write_body(copy);
  count = descriptors(copy, fds);
  len = strlen(body);
  step = asked.split > 0 ? asked.split : len;
  for (size_t at = 0; at < len; at += step) {
    send_part(body + at, at + step < len ? step : len - at, fds, at == 0 ? count : 0);
    if (asked.pause && at == 0) {
      char line[256];
      if (fgets(line, sizeof line, stdin) == NULL) {
        _exit(0);
      }
    } else if (asked.split > 0) {
      usleep(200);
    }
  }
}

static void hang_up(void) {
  close(connection);
  connection = -1;
}

static void introduce(void) {
  for (int copy = 0; copy < asked.copies; copy++) {
    shake_hands(copy);
  }
  dies("sent");
  if (era_is("1.1") || era_is("1.7")) {
    hang_up(); /* before 1.12 at once */
  }
}

/* --- the guest -------------------------------------------------------------------------------------------------------------------- */

static uint64_t stored(uint64_t offset) { return offset * 0x9e3779b97f4a7c15ull; }

/* Where a byte of the snapshot is. */
static volatile uint8_t *at(size_t offset) {
  for (int i = 0; i < region_count; i++) {
    if (offset >= regions[i].offset && offset - regions[i].offset < regions[i].size) {
      return regions[i].address + (offset - regions[i].offset);
    }
  }
  printf("failed offset %zu is in no region\n", offset);
  fflush(stdout);
  _exit(9);
}

/* Whether a kernel page has what the snapshot has there, or only zeroes: its first wrong byte, or -1. */
static long wrong_in(size_t offset, int zero) {
  volatile uint64_t *words = (volatile uint64_t *)at(offset);
  for (size_t i = 0; i < 4096 / 8; i++) {
    if (words[i] != (zero ? 0 : stored(offset % total + 8 * i))) {
      return (long)(offset + 8 * i);
    }
  }
  return -1;
}

typedef struct {
  size_t offset, pages; /* of 4096 bytes */
  unsigned seed;
  int rounds, zero;
  atomic_long *wrong;
} work_t;

/* Looks at each page once, in an order of its own. */
static void *verify_thread(void *data) {
  work_t *work = data;
  size_t step = 7919 + 2 * work->seed; /* odd, so that it comes round to each page of a power of two; for others the rest follows */
  for (size_t i = 0; i < work->pages; i++) {
    size_t page = work->seed == 0 ? i : (i * step + work->seed) % work->pages;
    long wrong = wrong_in(work->offset + page * 4096, work->zero);
    if (wrong >= 0) {
      atomic_store(work->wrong, wrong);
    }
  }
  for (size_t i = 0; i < work->pages; i++) {
    long wrong = wrong_in(work->offset + i * 4096, work->zero);
    if (wrong >= 0) {
      atomic_store(work->wrong, wrong);
    }
  }
  return NULL;
}

static int give_up(volatile uint8_t *address, size_t len) {
  return madvise((void *)(uintptr_t)address, len, memory_fd >= 0 ? MADV_REMOVE : MADV_DONTNEED);
}

/* Makes huge pages of what is there, as khugepaged does some time. Patient while the pages are busy elsewhere. */
static void collapse(size_t offset, size_t len) {
  int done = -1;
  for (int i = 0; i < 1000 && done != 0; i++) {
    done = madvise((void *)(uintptr_t)at(offset), len, MADV_COLLAPSE);
    if (done != 0 && errno != EAGAIN) { /* EBUSY: pages are missing, which a userfaultfd is to be asked for */
      break;
    }
    usleep(done != 0 ? 1000 : 0);
  }
  printf(done == 0 ? "ok\n" : "refused: %s\n", strerror(errno));
}

/* A balloon on pages of its own: what has been given up must read zero, whoever faults beside it. */
static void *balloon_thread(void *data) {
  work_t *work = data;
  size_t part = asked.page / 4096; /* removed as a whole */
  for (int round = 0; round < work->rounds; round++) {
    for (size_t i = 0; i + part <= work->pages; i += part) {
      size_t offset = work->offset + i * 4096;
      if (round == 0 && (i / part) % 3 == 0 && wrong_in(offset, 0) >= 0) {
        atomic_store(work->wrong, (long)offset);
      }
      if (give_up(at(offset), asked.page) != 0) {
        fail("madvise");
      }
      long wrong = wrong_in(offset, 1);
      if (wrong >= 0) {
        atomic_store(work->wrong, wrong);
      }
      *at(offset) = 1; /* and is the guest's own again */
    }
  }
  return NULL;
}

static void in_threads(void *(*body_of)(void *), work_t work, int threads, int apart) {
  atomic_long wrong = -1;
  pthread_t ids[MOST_THREADS];
  work_t works[MOST_THREADS];
  threads = threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
  for (int i = 0; i < threads; i++) {
    works[i] = work;
    works[i].wrong = &wrong;
    works[i].seed = (unsigned)i;
    if (apart) {
      size_t each = work.pages / (size_t)threads / (asked.page / 4096) * (asked.page / 4096);
      works[i].offset = work.offset + (size_t)i * each * 4096;
      works[i].pages = each;
    }
    if (pthread_create(&ids[i], NULL, body_of, &works[i]) != 0) {
      fail("pthread_create");
    }
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
  }
  if (wrong < 0) {
    printf("ok\n");
  } else {
    printf("wrong %ld: 0x%llx\n", (long)wrong, (unsigned long long)*(volatile uint64_t *)at((size_t)wrong));
  }
}

/* A system call that faults: the kernel's own access, as KVM's is. */
static void read_by_kernel(size_t offset) {
  int ends[2];
  if (pipe(ends) != 0) {
    fail("pipe");
  }
  ssize_t written = write(ends[1], (void *)(uintptr_t)at(offset), 8);
  uint64_t word = 0;
  if (written == 8 && read(ends[0], &word, 8) == 8) {
    printf("%016llx\n", (unsigned long long)word);
  } else {
    printf("failed write: %s\n", strerror(errno));
  }
  close(ends[0]);
  close(ends[1]);
}

static pthread_t behind;
static size_t behind_offset;
static uint64_t behind_word;

static void *touch_behind(void *unused) {
  behind_word = *(volatile uint64_t *)at(behind_offset);
  return unused;
}

static void start_behind(size_t offset) {
  behind_offset = offset;
  if (pthread_create(&behind, NULL, touch_behind, NULL) != 0) {
    fail("pthread_create");
  }
  printf("ok\n");
}

static pthread_t removing;
static size_t removing_offset;

static void *remove_behind(void *unused) {
  if (give_up(at(removing_offset), asked.page) != 0) {
    fail("madvise");
  }
  return unused;
}

/* Touches a page in one thread and gives it up in another, whose answers are not waited for: most likely both wait, when this returns. */
static void start_both(size_t offset) {
  behind_offset = removing_offset = offset;
  if (pthread_create(&behind, NULL, touch_behind, NULL) != 0) {
    fail("pthread_create");
  }
  usleep(5000);
  if (pthread_create(&removing, NULL, remove_behind, NULL) != 0) {
    fail("pthread_create");
  }
  usleep(5000);
  printf("ok\n");
}

typedef struct {
  atomic_size_t page, touched; /* the one to touch, and the last that was, counted from 1 */
  size_t offset, pages;
} race_t;

static void *race_thread(void *data) {
  race_t *it = data;
  for (size_t page = 1; page <= it->pages; page++) {
    for (int spins = 0; atomic_load(&it->page) < page; spins++) {
      if (spins > 5000) {
        sched_yield();
      }
    }
    (void)*at(it->offset + (page - 1) * 4096);
    atomic_store(&it->touched, page);
  }
  return NULL;
}

/* Each page is touched for the first time while it is given up. Whatever that touch saw, afterwards it is zero. */
static void race(size_t offset, size_t pages) {
  race_t it = {.offset = offset, .pages = pages};
  pthread_t thread;
  long wrong = -1;
  if (pthread_create(&thread, NULL, race_thread, &it) != 0) {
    fail("pthread_create");
  }
  for (size_t page = 1; page <= pages; page++) {
    size_t place = offset + (page - 1) * 4096;
    atomic_store(&it.page, page);
    for (volatile unsigned spin = (unsigned)(page * 2654435761u % 4000); spin > 0; spin--) {
    }
    if (give_up(at(place), 4096) != 0) {
      fail("madvise");
    }
    while (atomic_load(&it.touched) < page) {
      sched_yield();
    }
    if (wrong < 0) {
      wrong = wrong_in(place, 1);
    }
  }
  pthread_join(thread, NULL);
  printf(wrong < 0 ? "ok\n" : "wrong %ld\n", wrong);
}

static void obey(const char *order) {
  char name[32] = "";
  unsigned long offset = 0, len = 0, third = 1, fourth = 1;
  sscanf(order, "%31s %lu %lu %lu %lu", name, &offset, &len, &third, &fourth);
  if (strcmp(name, "touch") == 0) {
    printf("%016llx\n", (unsigned long long)*(volatile uint64_t *)at(offset));
  } else if (strcmp(name, "write") == 0) {
    *(volatile uint64_t *)at(offset) = len;
    printf("ok\n");
  } else if (strcmp(name, "kernel") == 0) {
    read_by_kernel(offset);
  } else if (strcmp(name, "verify") == 0 || strcmp(name, "zero") == 0) { /* OFFSET BYTES THREADS */
    in_threads(verify_thread, (work_t){.offset = offset, .pages = len / 4096, .zero = name[0] == 'z'}, (int)third, 0);
  } else if (strcmp(name, "balloon") == 0) { /* OFFSET BYTES THREADS ROUNDS */
    in_threads(balloon_thread, (work_t){.offset = offset, .pages = len / 4096, .rounds = (int)fourth}, (int)third, 1);
  } else if (strcmp(name, "remove") == 0) {
    printf(give_up(at(offset), len) == 0 ? "ok\n" : "failed madvise: %s\n", strerror(errno));
  } else if (strcmp(name, "collapse") == 0) {
    collapse(offset, len);
  } else if (strcmp(name, "hang-up") == 0) {
    hang_up();
    printf("ok\n");
  } else if (strcmp(name, "again") == 0) {
    shake_hands(0);
    printf("ok\n");
  } else if (strcmp(name, "close-uffd") == 0) { /* what Firecracker does not */
    close(uffds[0]);
    printf("ok\n");
  } else if (strcmp(name, "behind") == 0) { /* touches in a thread of its own; join waits for it */
    start_behind(offset);
  } else if (strcmp(name, "join") == 0) {
    pthread_join(behind, NULL);
    printf("%016llx\n", (unsigned long long)behind_word);
  } else if (strcmp(name, "both") == 0) {
    start_both(offset);
  } else if (strcmp(name, "join-both") == 0) {
    pthread_join(behind, NULL);
    pthread_join(removing, NULL);
    printf(wrong_in(removing_offset, 1) < 0 ? "ok\n" : "wrong\n");
  } else if (strcmp(name, "race") == 0) {
    race(offset, len / 4096);
  } else if (strcmp(name, "exit") == 0) {
    _exit((int)offset);
  } else if (strcmp(name, "abort") == 0) {
    raise(SIGKILL);
  } else {
    printf("failed there is no order %s\n", name);
  }
  fflush(stdout);
}

static void parse_regions(const char *text) {
  size_t size;
  for (; region_count < MOST_REGIONS && sscanf(text, "%zu", &size) == 1; text += strcspn(text, ","), text += *text == ',') {
    regions[region_count++].size = size;
  }
}

static void parse(int argc, char **argv) {
  asked.socket = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; i++) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
    if (strcmp(name, "--no-balloon") == 0) {
      asked.balloon = 0;
      continue;
    }
    if (strcmp(name, "--thread-id") == 0) {
      asked.thread_id = 1;
      continue;
    }
    if (strcmp(name, "--thp") == 0) {
      asked.thp = 1;
      continue;
    }
    if (strcmp(name, "--pause") == 0) {
      asked.pause = 1;
      continue;
    }
    i++;
    if (strcmp(name, "--era") == 0) {
      asked.era = value;
    } else if (strcmp(name, "--regions") == 0) {
      parse_regions(value);
    } else if (strcmp(name, "--page") == 0) {
      asked.page = strtoul(value, NULL, 10);
    } else if (strcmp(name, "--copies") == 0) {
      asked.copies = atoi(value);
    } else if (strcmp(name, "--body") == 0) {
      asked.body = value;
    } else if (strcmp(name, "--fds") == 0) {
      asked.fds = value;
    } else if (strcmp(name, "--split") == 0) {
      asked.split = strtoul(value, NULL, 10);
    } else if (strcmp(name, "--die") == 0) {
      asked.die = value;
    } else {
      fprintf(stderr, "there is no option %s\n", name);
      _exit(2);
    }
  }
  if (region_count == 0) {
    parse_regions("1048576");
  }
  int once = region_count;
  for (int i = 0; i < once; i++) {
    total += regions[i].size;
  }
  while (region_count < once * asked.copies && region_count < MOST_REGIONS) {
    regions[region_count].size = regions[region_count - once].size;
    region_count++;
  }
}

int main(int argc, char **argv) {
  char order[256];
  parse(argc, argv);
  map_regions();
  for (int copy = 0; copy < asked.copies; copy++) {
    register_regions(copy);
  }
  introduce();
  printf("ready%s\n", user_mode_only ? " user-mode-only" : "");
  fflush(stdout);
  while (fgets(order, sizeof order, stdin) != NULL) {
    obey(order);
  }
  return 0;
}
