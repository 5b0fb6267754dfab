/* sanitizers: address,thread,none */
/*
 * Every system call on descriptors that the other tests of failing calls leave alone: those that ask what a file is,
 * open and copy descriptors, lock and seal, lend memory to a pipe, wait for the other end of a transfer. Each fails
 * with each errno that it can have. Then there is an error that says so, with that errno, or a retry that heals; never
 * another file's bytes or zeroes, no write to a file that nobody will open again, no wait without an end, no
 * descriptor left. The calls are this program's own symbols, which go before the C library's.
 */
#include "write_support.h"

#include "../patch.h"
#include "inject.h"
#include "scenarios.h"

#include <sys/ioctl.h>
#include <sys/vfs.h>

typedef enum {
  FSTAT, STAT, OPEN, DUP3, DUPFD, GETFL, SETLK, GETLK, ADD_SEALS, FSTATFS, PREAD, SEEK, MEMFD, POLL, NEW, PIPE, PIPE_SIZE, VMSPLICE, SPLICE,
  PREADV, CALLS
} call_t;

static const injected_t injected_calls[CALLS] = {
    [FSTAT] = {"fstat", {EBADF, EFAULT, EIO, ENOMEM, EOVERFLOW, ESTALE, EINTR}},
    [STAT] = {"stat", {EFAULT, EIO, ENOMEM, EOVERFLOW, ESTALE, EINTR, EBADF}}, /* those that do not say that the name is nobody's */
    [OPEN] = {"open", {EMFILE, ENFILE, ENOMEM, EACCES, EINTR, EIO, ELOOP, ENXIO, EPERM, ENOENT}},
    [DUP3] = {"dup3", {EBADF, EBUSY, EINTR, EINVAL, EMFILE}},
    [DUPFD] = {"F_DUPFD_CLOEXEC", {EBADF, EINVAL, EMFILE}},
    [GETFL] = {"F_GETFL", {EBADF}},
    [SETLK] = {"F_OFD_SETLK", {EBADF, EINTR, EINVAL, ENOLCK, ENOMEM, EOVERFLOW}},
    [GETLK] = {"F_OFD_GETLK", {EBADF, EINVAL, ENOLCK, EOVERFLOW}},
    [ADD_SEALS] = {"F_ADD_SEALS", {EBUSY, EINVAL, EPERM}},
    [FSTATFS] = {"fstatfs", {EFAULT, EINTR, EIO, ENOMEM, ENOSYS, EOVERFLOW}},
    [PREAD] = {"pread", {EFAULT, EINTR, EIO, ENOMEM}},
    [SEEK] = {"lseek", {EINVAL, ENXIO, EOVERFLOW, ESPIPE}},
    [MEMFD] = {"memfd_create", {EMFILE, ENFILE, ENOMEM, EPERM}},
    [POLL] = {"poll", {EFAULT, EINVAL, ENOMEM}},
    [NEW] = {"USERFAULTFD_IOC_NEW", {EINVAL, EMFILE, ENFILE, ENOMEM, ENOTTY, EPERM}},
    [PIPE] = {"pipe2", {EMFILE, ENFILE, ENOMEM}},
    [PIPE_SIZE] = {"F_SETPIPE_SZ", {EBUSY, EINVAL, ENOMEM, EPERM}},
    [VMSPLICE] = {"vmsplice", {EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOMEM}},
    [SPLICE] = {"splice", {EAGAIN, EBADF, EINTR, EINVAL, ENOMEM}},
    [PREADV] = {"preadv2", {EAGAIN, EINTR, EINVAL, EIO, ENOSYS, EOPNOTSUPP, EPERM}},
};

#define EACH_HOW(call, how) \
  for (int which_ = 0, how = 0; which_ < HOWS && (how = injected_calls[call].how[which_]) != 0; which_++)

static const char *opened = "/"; /* what the path has in it whose opening may fail */
static _Atomic bool no_userfaultfd;

int fstat(int fd, struct stat *out) {
  int how = must_fail(FSTAT);
  return how != 0 ? fail(how) : (int)syscall(SYS_newfstatat, fd, "", out, 0x1000 /* AT_EMPTY_PATH */);
}

int stat(const char *path, struct stat *out) {
  int how = must_fail(STAT);
  return how != 0 ? fail(how) : (int)syscall(SYS_newfstatat, AT_FDCWD, path, out, 0);
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = flags & O_CREAT ? va_arg(list, int) : 0;
  va_end(list);
  int how = strstr(path, opened) != NULL ? must_fail(OPEN) : 0;
  return how != 0 ? fail(how) : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int dup3(int from, int to, int flags) {
  int how = must_fail(DUP3);
  return how != 0 ? fail(how) : (int)syscall(SYS_dup3, from, to, flags);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  int call = command == F_DUPFD_CLOEXEC ? DUPFD : command == F_GETFL ? GETFL : command == F_OFD_SETLK ? SETLK : command == F_OFD_GETLK ? GETLK : -1;
  call = command == F_ADD_SEALS ? ADD_SEALS : command == F_SETPIPE_SZ ? PIPE_SIZE : call;
  int how = call < 0 ? 0 : must_fail(call);
  return how != 0 ? fail(how) : (int)syscall(SYS_fcntl, fd, command, argument);
}

int fstatfs(int fd, struct statfs *out) {
  int how = must_fail(FSTATFS);
  return how != 0 ? fail(how) : (int)syscall(SYS_fstatfs, fd, out);
}

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  int how = must_fail(PREAD);
  return how != 0 ? fail(how) : syscall(SYS_pread64, fd, into, len, offset);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  int how = must_fail(PREADV);
  return how != 0 ? fail(how) : syscall(SYS_preadv2, fd, parts, count, offset, 0L, flags);
}

off_t lseek(int fd, off_t offset, int whence) {
  int how = must_fail(SEEK);
  return how != 0 ? fail(how) : syscall(SYS_lseek, fd, offset, whence);
}

int memfd_create(const char *name, unsigned flags) {
  int how = must_fail(MEMFD);
  return how != 0 ? fail(how) : (int)syscall(SYS_memfd_create, name, flags);
}

int poll(struct pollfd *list, nfds_t count, int timeout_ms) {
  int how = must_fail(POLL);
  struct timespec left = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  return how != 0 ? fail(how) : (int)syscall(SYS_ppoll, list, count, timeout_ms < 0 ? NULL : &left, NULL, 0);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  long argument = va_arg(list, long);
  va_end(list);
  int how = request == PF_USERFAULTFD_IOC_NEW ? must_fail(NEW) : 0;
  return how != 0 ? fail(how) : (int)syscall(SYS_ioctl, fd, request, argument);
}

int pipe2(int ends[2], int flags) {
  int how = must_fail(PIPE);
  return how != 0 ? fail(how) : (int)syscall(SYS_pipe2, ends, flags);
}

ssize_t vmsplice(int fd, const struct iovec *parts, size_t count, unsigned flags) {
  int how = must_fail(VMSPLICE);
  return how != 0 ? fail(how) : syscall(SYS_vmsplice, fd, parts, count, flags);
}

ssize_t splice(int from, off_t *at, int to, off_t *to_at, size_t len, unsigned flags) {
  int how = must_fail(SPLICE);
  return how != 0 ? fail(how) : syscall(SYS_splice, from, at, to, to_at, len, flags);
}

long syscall(long number, ...) {
  SYSCALL_ARGUMENTS(number, with);
  return number == SYS_userfaultfd && atomic_load(&no_userfaultfd) ? fail(EPERM) : raw_syscall(number, with);
}

/* Says what had failed where the test found something since `before`. */
static void report(int before, int call, int how) {
  if (atomic_load(&unmet) != before) {
    printf("  after %s said %d\n", injected_calls[call].name, how);
  }
}

/* --- what a file is ------------------------------------------------------------------------------------------------------------------ */

#define LENGTH (16 * PAGE)

/* True for what cannot be otherwise the next time. */
static bool stays(int how) { return how == EBADF || how == EFAULT || how == EOVERFLOW || how == EINVAL; }

/* Once: the page comes, or the reason is the errno. Always: the reason is the errno, not a change of the file that
 * nobody saw. */
static void file_looked_at(pf_backend_t backend) {
  EACH_HOW(FSTAT, how) {
    pf_why_t why = {0};
    int before = atomic_load(&unmet);
    pf_region_t *region = open_region(backend, file_source(LENGTH), LENGTH, OPTIONS());
    arm(FSTAT, 0, 0, how);
    bool there = ensure(region, 1, LONG_MS, true, &why);
    disarm();
    EXPECT_EQ(atomic_load(&injected), 1);
    EXPECT_EQ(there, !stays(how));
    EXPECT(there || (why.code == PF_E_STORE && why.err == how));
    arm(FSTAT, 1, 0, how);
    EXPECT(!ensure(region, 2, 200, true, &why));
    disarm();
    EXPECT_EQ(why.code, PF_E_STORE);
    EXPECT_EQ(why.err, how);
    EXPECT(ensure(region, 1, LONG_MS, true, &why) && ensure(region, 2, LONG_MS, true, &why));
    EXPECT_EQ(first_difference(region, 0, LENGTH, 0, LENGTH), LENGTH);
    EXPECT(close_region(region));
    report(before, FSTAT, how);
  }
}

typedef struct {
  char path[64], other[64];
  int old; /* the file that was mapped */
} files_t;

/* Two files, of different bytes. */
static pf_source_t two_files(files_t *files) {
  make_path(files->path);
  make_path(files->other);
  write_file(files->path, 0, LENGTH);
  write_file(files->other, 5, LENGTH);
  files->old = open(files->path, O_RDWR | O_CLOEXEC);
  pf_source_t source = {.kind = PF_SOURCE_FILE, .check = true, .fd = open(files->path, O_RDWR | O_CLOEXEC), .path = strdup(files->path)};
  must(files->old >= 0 && source.fd >= 0 && source.path != NULL && pf_source_identify(&source) == 0, "files");
  return source;
}

/* Another file has taken its place, which the name would tell, and the name cannot be looked at: nothing is written to
 * a file that nobody will open again, and nothing is read from it either. */
static void name_looked_at(pf_backend_t backend) {
  EACH_HOW(STAT, how) {
    files_t files;
    int before = atomic_load(&unmet);
    pf_region_t *region = open_region(backend, two_files(&files), LENGTH, OPTIONS(.writable = true));
    poke(region, PAGE, 99);
    must(rename(files.other, files.path) == 0, "a rename");
    pf_why_t why = {0};
    arm(STAT, 1, 0, how);
    EXPECT(!ensure(region, 2, 200, true, &why));
    EXPECT(why.code == PF_E_STORE && why.err == how);
    why = flush_why(region, 0, 16);
    EXPECT(why.code == PF_E_WRITE && why.err == how);
    EXPECT(atomic_load(&injected) > 0);
    disarm();
    EXPECT_EQ(stored_byte(files.old, PAGE), pattern(PAGE));
    EXPECT_EQ(dirty_bits(region), 2);
    EXPECT_EQ(touch(region, PAGE), 99);
    EXPECT_EQ(flush_all(region), PF_E_CHANGED);
    EXPECT_EQ(stored_byte(files.old, PAGE), pattern(PAGE));
    EXPECT(discard(region, 0, 16));
    EXPECT(close_region(region));
    close(files.old);
    unlink(files.path);
    report(before, STAT, how);
  }
}

/* `invalidate` goes over to the file that took the place: with all of it, or with an error, and the next time. */
static void gone_over(pf_backend_t backend) {
  static const call_t calls[] = {STAT, OPEN, DUP3, FSTAT};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      if (calls[i] == OPEN && how == ENOENT) {
        continue; /* a name that is gone between two calls: as an errno, one of many */
      }
      files_t files;
      int before = atomic_load(&unmet);
      pf_region_t *region = open_region(backend, two_files(&files), LENGTH, OPTIONS());
      EXPECT_EQ(touch(region, 0), pattern(0));
      must(rename(files.other, files.path) == 0, "a rename");
      unsigned descriptors = count_descriptors();
      opened = files.path;
      arm(calls[i], 0, 0, how);
      EXPECT_EQ(pf_source_rebase(&region->source), -how);
      disarm();
      opened = "/";
      EXPECT_EQ(atomic_load(&injected), 1);
      EXPECT_EQ(count_descriptors(), descriptors);
      EXPECT_EQ(checked_byte(region, 3 * PAGE), -1 - (int)PF_E_CHANGED);
      EXPECT_EQ(pf_source_rebase(&region->source), 0);
      EXPECT(invalidate(region, 0, 16));
      EXPECT_EQ(first_difference(region, 0, LENGTH, 5, LENGTH), LENGTH);
      EXPECT_EQ(count_descriptors(), descriptors);
      EXPECT(close_region(region));
      close(files.old);
      unlink(files.path);
      report(before, calls[i], how);
    }
  }
}

/* --- a descriptor of the device --------------------------------------------------------------------------------------------------------- */

static void lent(pf_backend_t backend) {
  static const call_t calls[] = {FSTAT, NEW, DUPFD};
  (void)backend;
  bool by_device = false;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    return; /* not for this user */
  }
  unsigned descriptors = count_descriptors();
  atomic_store(&no_userfaultfd, true);
  opened = "/dev/userfaultfd";
  EACH_HOW(OPEN, how) { /* what refused it first is the reason */
    arm(OPEN, 0, 0, how);
    EXPECT_EQ(pf_own_uffd_may(true, &by_device), EPERM);
    EXPECT_EQ(atomic_load(&injected), 1);
  }
  opened = "/";
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      arm(calls[i], 0, 0, how);
      EXPECT_EQ(pf_own_uffd_lend(device), -how);
      EXPECT_EQ(atomic_load(&injected), 1);
      EXPECT_EQ(count_descriptors(), descriptors);
    }
  }
  disarm();
  EXPECT_EQ(pf_own_uffd_may(false, &by_device), EPERM); /* nothing was lent */
  EXPECT_EQ(pf_own_uffd_lend(device), 0);
  EACH_HOW(DUP3, how) {
    arm(DUP3, 0, 0, how);
    EXPECT_EQ(pf_own_uffd_lend(device), -how);
    EXPECT_EQ(atomic_load(&injected), 1);
    disarm();
    EXPECT_EQ(count_descriptors(), descriptors + 1);
    EXPECT_EQ(pf_own_uffd_may(false, &by_device), 0); /* the first one stays */
    EXPECT(by_device);
  }
  EXPECT_EQ(pf_own_uffd_lend(device), 0);
  EXPECT_EQ(count_descriptors(), descriptors + 1);
  atomic_store(&no_userfaultfd, false);
  close(device);
}

/* Messages of any userfaultfd, which somebody may have made blocking. */
static void read_now(pf_backend_t backend) {
  (void)backend;
  struct pf_uffd_msg message;
  uint64_t offered, ioctls;
  int fd = pf_uffd_open(O_CLOEXEC | O_NONBLOCK | PF_UFFD_USER_MODE_ONLY, -1);
  must(fd >= 0 && pf_uffd_handshake(fd, 0, &offered, &ioctls) == 0, "a userfaultfd");
  for (int blocking = 0; blocking < 2; blocking++) {
    must(fcntl(fd, F_SETFL, (long)(blocking ? 0 : O_NONBLOCK)) == 0, "fcntl");
    EACH_HOW(PREADV, how) {
      arm(PREADV, 1, 0, how);
      if (how == EINTR) {
        arm(PREADV, 0, 0, how); /* tried again for as long as it is so */
      }
      int64_t got = pf_uffd_read_now(fd, &message, sizeof message);
      disarm();
      EXPECT(atomic_load(&injected) > 0);
      EXPECT_EQ(got, how == EINVAL || how == EIO ? -how : blocking ? -EDEADLK : -EAGAIN);
    }
  }
  must(fcntl(fd, F_SETFL, (long)O_NONBLOCK) == 0, "fcntl");
  arm(GETFL, 1, 0, EBADF);
  EXPECT_EQ(pf_uffd_read_now(fd, &message, sizeof message), -EAGAIN);
  EXPECT(atomic_load(&injected) > 0);
  disarm();
  close(fd);
}

/* --- shared memory ------------------------------------------------------------------------------------------------------------------------ */

/* Made or adopted, or an error with the errno, and nothing left. */
static void objects(pf_backend_t backend) {
  static const call_t making[] = {MEMFD, OPEN, SETLK, ADD_SEALS}, adopting[] = {FSTATFS, FSTAT, PREAD, DUPFD, OPEN, SETLK};
  const size_t makes = sizeof making / sizeof *making, adopts = sizeof adopting / sizeof *adopting;
  (void)backend;
  pf_object_t *object = NULL, *other = NULL;
  must(pf_object_create(8 * PAGE, &object) == 0, "an object");
  unsigned descriptors = count_descriptors(), mappings = count_mappings();
  opened = "/proc/self/fd/";
  for (size_t i = 0; i < makes + adopts; i++) {
    call_t call = i < makes ? making[i] : adopting[i - makes];
    EACH_HOW(call, how) {
      int before = atomic_load(&unmet);
      arm(call, 0, 0, how);
      int err = i < makes ? pf_object_create(8 * PAGE, &other) : pf_object_adopt(pf_object_fd(object), &other);
      disarm();
      EXPECT_EQ(atomic_load(&injected), 1);
      EXPECT_EQ(err, -how);
      EXPECT(other == NULL);
      EXPECT(SLOW || count_mappings() <= mappings); /* sanitizers map for themselves */
      EXPECT_EQ(count_descriptors(), descriptors);
      report(before, (int)call, how);
    }
  }
  static const int taken[] = {EAGAIN, EACCES}; /* somebody has that number: another one */
  for (size_t i = 0; i < 2; i++) {
    arm(SETLK, 0, 0, taken[i]);
    EXPECT_EQ(pf_object_adopt(pf_object_fd(object), &other), 0);
    EXPECT_EQ(atomic_load(&injected), 1);
    disarm();
    pf_object_drop(other);
    arm(SETLK, 1, 0, taken[i]);
    EXPECT_EQ(pf_object_adopt(pf_object_fd(object), &other), -EAGAIN);
    disarm();
    EXPECT_EQ(count_descriptors(), descriptors);
  }
  opened = "/";
  EACH_HOW(SEEK, how) {
    arm(SEEK, 0, 0, how);
    EXPECT_EQ(pf_object_filled(object), 0);
    disarm();
    EXPECT_EQ(atomic_load(&injected), 1);
  }
  pf_object_drop(object);
}

/* Whoever began to fill a page is gone, and the kernel does not say so: the page comes all the same, when that one has
 * had its time. */
static void holder_gone(pf_backend_t backend) {
  pf_object_t *object = NULL;
  must(pf_object_create(8 * PAGE, &object) == 0, "an object");
  pf_region_t *region = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS(.timeout_ms = 400));
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_region_patch(region, 0, 8, object, 0), 0);
  pf_restore_signals(&before);
  uint64_t page = 0;
  EACH_HOW(GETLK, how) {
    uint32_t nobody = object->number == 77 ? 78 : 77;
    atomic_store(&object->words[page], nobody);
    arm(GETLK, 1, 0, how);
    pf_why_t why = {0};
    EXPECT(ensure(region, page, LONG_MS, true, &why));
    disarm();
    EXPECT(atomic_load(&injected) > 0);
    EXPECT_EQ(touch(region, page * PAGE + 3), pattern(page * PAGE + 3));
    EXPECT_EQ(atomic_load(&object->words[page]), FILLED);
    page++;
  }
  EXPECT(close_region(region));
  pf_object_drop(object);
}

/* --- transfers -------------------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_job_t job; /* first */
  _Atomic int done;
} transfer_t;

static void on_done(pf_job_t *job) { atomic_store(&((transfer_t *)job)->done, 1); }
static bool is_done(void *data) { return atomic_load(&((transfer_t *)data)->done) != 0; }

static void begin(transfer_t *transfer, pf_region_t *region, int fd, int64_t position) {
  *transfer = (transfer_t){.job = {.region = region, .kind = PF_JOB_WRITE_TO, .len = LENGTH, .end = 16, .fd = fd, .position = position, .done = on_done}};
  EXPECT_EQ(pf_loader_submit(&transfer->job), 0);
}

static uint64_t run(transfer_t *transfer, pf_region_t *region, int fd, int64_t position) {
  begin(transfer, region, fd, position);
  EXPECT(wait_until(is_done, transfer, LONG_MS));
  return atomic_load(&transfer->job.bytes_done);
}

static uint64_t take_all(int fd, uint64_t from) {
  static uint8_t bytes[65536];
  ssize_t got;
  while ((got = read(fd, bytes, sizeof bytes)) > 0) {
    for (ssize_t i = 0; i < got; i++) {
      EXPECT_EQ(bytes[i], pattern(from + (uint64_t)i));
    }
    from += (uint64_t)got;
  }
  return from;
}

static void transfers(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LENGTH), LENGTH, OPTIONS());
  transfer_t transfer;
  int file = memfd_create("out", MFD_CLOEXEC), ends[2];
  must(file >= 0 && pipe2(ends, O_CLOEXEC) == 0, "descriptors");
  must(fcntl(ends[1], F_SETPIPE_SZ, (long)(4 * PAGE)) > 0, "a small pipe");
  must(fcntl(ends[0], F_SETFL, (long)O_NONBLOCK) == 0, "fcntl");
  EXPECT_EQ(run(&transfer, region, file, 0), LENGTH); /* the loader's thread is there */
  unsigned descriptors = count_descriptors();
  EACH_HOW(DUPFD, how) {
    arm(DUPFD, 0, 0, how);
    EXPECT_EQ(pf_transfer_fd(file), -how);
    EXPECT_EQ(atomic_load(&injected), 1);
  }
  EACH_HOW(FSTAT, how) {
    arm(FSTAT, 0, 0, how);
    EXPECT_EQ(run(&transfer, region, file, 0), 0);
    EXPECT_EQ(transfer.job.fd_errno, how);
    EXPECT_EQ(atomic_load(&injected), 1);
  }
  EACH_HOW(SEEK, how) { /* a pipe has no place in it: the errno is as the kernel says it */
    arm(SEEK, 0, 0, how);
    EXPECT_EQ(run(&transfer, region, ends[1], 0), 0);
    EXPECT_EQ(transfer.job.fd_errno, how);
    EXPECT_EQ(atomic_load(&injected), 1);
  }
  arm(GETFL, 0, 0, EBADF);
  EXPECT_EQ(run(&transfer, region, file, 0), LENGTH);
  EXPECT_EQ(atomic_load(&injected), 1);
  /* Nobody reads from the pipe, and whether it has room cannot be asked: to try would be to wait in the kernel, where nobody can call the transfer off. */
  EACH_HOW(POLL, how) {
    int before = atomic_load(&unmet);
    arm(POLL, 0, 2, how);
    EXPECT_EQ(run(&transfer, region, ends[1], -1), 2 * PAGE);
    disarm();
    EXPECT_EQ(transfer.job.fd_errno, how);
    EXPECT_EQ(atomic_load(&injected), 1);
    EXPECT_EQ(take_all(ends[0], 0), 2 * PAGE);
    report(before, POLL, how);
  }
  arm(POLL, 0, 1, EINTR); /* tried again */
  begin(&transfer, region, ends[1], -1);
  uint64_t got = 0;
  for (uint64_t end = pf_now_ns() + LONG_MS * MS; !is_done(&transfer) && pf_now_ns() < end; pf_sleep_until(pf_now_ns() + MS)) {
    got = take_all(ends[0], got);
  }
  EXPECT_EQ(take_all(ends[0], got), LENGTH);
  EXPECT_EQ(atomic_load(&transfer.job.bytes_done), LENGTH);
  EXPECT_EQ(transfer.job.fd_errno, 0);
  EXPECT_EQ(atomic_load(&injected), 1);
  disarm();
  /* As a signal would have it at each look: it is called off all the same. */
  arm(POLL, 1, 0, EINTR);
  begin(&transfer, region, ends[1], -1);
  atomic_store(&transfer.job.cancel, 1);
  EXPECT(wait_until(is_done, &transfer, LONG_MS));
  EXPECT_EQ(transfer.job.why.code, PF_E_ABORTED);
  disarm();
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT(close_region(region));
  close(file);
  close(ends[0]);
  close(ends[1]);
}

/* --- lent to a pipe ----------------------------------------------------------------------------------------------------------------------------- */

/* In a process of its own, since there is one pipe for a process. What is missing is never said to be at hand. */
static int at_hand(pf_backend_t backend) {
  int call, how;
  must(sscanf(getenv("PF_TEST_HAND"), "%d %d", &call, &how) == 2, "a call");
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT_EQ(touch(region, 0), pattern(0));
  unsigned descriptors = count_descriptors() - pf_os_descriptors();
  pf_span_t there = {region->base, PAGE}, missing = {region->base + 2 * PAGE, PAGE};
  arm(call, 0, 0, how);
  for (int i = 0; i < 3; i++) {
    pf_span_t both[] = {there, missing};
    EXPECT(pf_mem_at_hand(both, 2) != 1);
    EXPECT(pf_mem_at_hand(&missing, 1) != 1);
    int hand = pf_mem_at_hand(&there, 1);
    EXPECT(hand == 1 || hand < 0 || (call == VMSPLICE && how == EFAULT));
    EXPECT_EQ(count_descriptors() - pf_os_descriptors(), descriptors);
  }
  disarm();
  EXPECT_EQ(atomic_load(&injected), 1);
  EXPECT_EQ(state_of(region, 2), PF_ABSENT);
  EXPECT(close_region(region));
  return result();
}

static void test_at_hand(pf_backend_t backend) {
  static const call_t calls[] = {PIPE, OPEN, PIPE_SIZE, VMSPLICE, SPLICE};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      char words[24];
      int before = atomic_load(&unmet);
      snprintf(words, sizeof words, "%d %d", (int)calls[i], how);
      setenv("PF_TEST_HAND", words, 1);
      expect_well("at hand", backend);
      report(before, (int)calls[i], how);
    }
  }
}

static const scenario_t scenarios[] = {{"at hand", at_hand}};

int main(int count, char **arguments) {
  if (count == 4) {
    return run_scenario(scenarios, sizeof scenarios / sizeof *scenarios, arguments);
  }
  test_each("a file that cannot be looked at is an error with the errno, and heals", file_looked_at);
  test_each("where a file's name cannot be looked at nothing is written to one that may be nobody's", name_looked_at);
  test_each("a file that took the place of another is gone over to, or an error says why not", gone_over);
  test_on(PF_BACKEND_SIGNAL, "a device that cannot be lent is refused with the reason, and one that was lent stays", lent);
  test_on(PF_BACKEND_SIGNAL, "messages are read without a wait, or it is said why not", read_now);
  test_on(PF_BACKEND_MPROTECT, "shared memory that cannot be made or adopted is an error with the errno", objects);
  test_each("a page of shared memory comes though nobody says that its filler is gone", holder_gone);
  test_each("a transfer whose descriptor cannot be asked is an error with the errno, and no wait", transfers);
  test_on(PF_BACKEND_SIGNAL, "memory that is not there is not at hand, whatever a pipe says", test_at_hand);
  return summary();
}
