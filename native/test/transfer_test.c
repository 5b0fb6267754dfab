/* sanitizers: address,thread,none */
/*
 * Transfers between regions and descriptors whose calls are interrupted, do a part of the work, or fail: every byte arrives once, and what is said to be done is done.
 * The calls are this program's own symbols, which go before the C library's.
 */
#include "support.h"

#include <sys/socket.h>

/* --- calls that do less than they are asked ------------------------------------------------------------------------------------ */

static _Atomic int watched = -1;        /* the inode's descriptor that is disturbed, by its identity */
static _Atomic uint64_t watched_inode;
static _Atomic uint64_t chance = 88172645463325252ULL;
static _Atomic uint64_t room;           /* bytes until writes fail with `errno_then` */
static _Atomic int errno_then;

static bool is_watched(int fd) {
  struct stat about;
  return atomic_load(&watched) >= 0 && fstat(fd, &about) == 0 && about.st_ino == atomic_load(&watched_inode);
}

static void watch(int fd) {
  struct stat about;
  must(fstat(fd, &about) == 0, "fstat");
  atomic_store(&watched_inode, about.st_ino);
  atomic_store(&room, UINT64_MAX);
  atomic_store(&watched, fd);
}

/* How many bytes the call shall do; -1 with errno. */
static ssize_t disturb(int fd, size_t len, bool writes) {
  if (!is_watched(fd) || len == 0) {
    return (ssize_t)len;
  }
  uint64_t seed = atomic_load(&chance), dice = random_next(&seed);
  atomic_store(&chance, seed);
  if (dice % 5 == 0) {
    errno = EINTR;
    return -1;
  }
  if (writes && atomic_load(&room) == 0) {
    errno = atomic_load(&errno_then);
    return -1;
  }
  size_t part = dice % 3 == 0 ? 1 + (size_t)(dice >> 8) % len : len;
  if (writes && atomic_load(&room) != UINT64_MAX) {
    part = part < atomic_load(&room) ? part : (size_t)atomic_load(&room);
    atomic_fetch_sub(&room, part);
  }
  return (ssize_t)part;
}

ssize_t write(int fd, const void *from, size_t len) {
  ssize_t part = disturb(fd, len, true);
  return part < 0 ? -1 : syscall(SYS_write, fd, from, (size_t)part);
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t offset) {
  ssize_t part = disturb(fd, len, true);
  return part < 0 ? -1 : syscall(SYS_pwrite64, fd, from, (size_t)part, offset);
}

ssize_t read(int fd, void *into, size_t len) {
  ssize_t part = disturb(fd, len, false);
  return part < 0 ? -1 : syscall(SYS_read, fd, into, (size_t)part);
}

ssize_t pread(int fd, void *into, size_t len, off_t offset) {
  ssize_t part = disturb(fd, len, false);
  return part < 0 ? -1 : syscall(SYS_pread64, fd, into, (size_t)part, offset);
}

/* --- transfers -------------------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_job_t job; /* first */
  _Atomic int done;
} transfer_t;

static void on_done(pf_job_t *job) { atomic_store(&((transfer_t *)job)->done, 1); }
static bool is_done(void *data) { return atomic_load(&((transfer_t *)data)->done) != 0; }

static void begin(transfer_t *transfer, pf_region_t *region, pf_job_kind_t kind, int fd, uint64_t offset, uint64_t len, int64_t position) {
  *transfer = (transfer_t){.job = {.region = region, .kind = kind, .offset = offset, .len = len, .fd = fd, .position = position, .done = on_done}};
  transfer->job.first = offset >> region->page_shift;
  transfer->job.end = ((offset + len - 1) >> region->page_shift) + 1;
  EXPECT_EQ(pf_loader_submit(&transfer->job), 0);
}

static uint64_t run(transfer_t *transfer, pf_region_t *region, pf_job_kind_t kind, int fd, uint64_t offset, uint64_t len, int64_t position) {
  begin(transfer, region, kind, fd, offset, len, position);
  EXPECT(wait_until(is_done, transfer, 20000));
  return atomic_load(&transfer->job.bytes_done);
}

static int new_file(uint64_t bias, uint64_t len) {
  char path[64];
  make_path(path);
  write_file(path, bias, len);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  must(fd >= 0, "a file");
  unlink(path);
  return fd;
}

/* The first offset of the file from which it does not have the pattern of `bias`, or `end`. */
static uint64_t file_difference(int fd, uint64_t end, uint64_t bias) {
  static uint8_t block[1 << 20];
  must(end <= sizeof block, "a small file");
  ssize_t got = syscall(SYS_pread64, fd, block, end, 0);
  for (uint64_t i = 0; i < end; i++) {
    if ((ssize_t)i >= got || block[i] != pattern(bias + i)) {
      return i;
    }
  }
  return end;
}

#define LENGTH (100 * PAGE + 77)

static void interrupted(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LENGTH), LENGTH, OPTIONS(.writable = true));
  int fd = new_file(0, 0);
  watch(fd);
  transfer_t transfer;
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, fd, 5, LENGTH - 5, -1), LENGTH - 5);
  EXPECT_EQ(transfer.job.why.code, PF_OK);
  EXPECT_EQ(file_difference(fd, LENGTH - 5, 5), LENGTH - 5);
  EXPECT_EQ(run(&transfer, region, PF_JOB_READ_FROM, fd, 0, LENGTH, 0), LENGTH - 5); /* the file ends */
  EXPECT_EQ(first_difference(region, 0, LENGTH - 5, 5, LENGTH), LENGTH - 5);
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, fd, 0, LENGTH - 5, 0), LENGTH - 5);
  EXPECT_EQ(file_difference(fd, LENGTH - 5, 5), LENGTH - 5);
  atomic_store(&watched, -1);
  close(fd);
  EXPECT(close_region(region));
}

static void without_room(pf_backend_t backend) {
  static const int errors[] = {ENOSPC, EIO, EDQUOT, EFBIG, EPERM};
  pf_region_t *region = open_region(backend, memory_source(LENGTH), LENGTH, OPTIONS(.store_length = 0));
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    int fd = new_file(0, 0);
    uint64_t fits = i * 33333;
    watch(fd);
    atomic_store(&errno_then, errors[i]);
    atomic_store(&room, fits);
    transfer_t transfer;
    EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, fd, 3, LENGTH - 3, i % 2 == 0 ? -1 : 0), fits);
    EXPECT_EQ(transfer.job.fd_errno, errors[i]);
    EXPECT_EQ(transfer.job.why.code, PF_OK);
    EXPECT_EQ(file_difference(fd, fits, 3), fits);
    atomic_store(&watched, -1);
    close(fd);
  }
  EXPECT(close_region(region));
}

/* The file's place is where the last byte came from that was kept. */
static void place_put_back(pf_backend_t backend) {
  pf_source_t source = file_source(40 * PAGE);
  source.check = false;
  pf_region_t *region = open_region(backend, source, 64 * PAGE, OPTIONS(.store_length = 64 * PAGE, .writable = true)); /* the store is shorter than it says */
  int fd = new_file(7, 64 * PAGE);
  watch(fd);
  transfer_t transfer;
  EXPECT_EQ(run(&transfer, region, PF_JOB_READ_FROM, fd, 100, 64 * PAGE - 100, -1), 40 * PAGE - 100);
  EXPECT_EQ(transfer.job.why.code, PF_E_SHORT);
  EXPECT_EQ(transfer.job.failed_page, 40);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 40 * PAGE - 100);
  EXPECT_EQ(first_difference(region, 100, 40 * PAGE, 7 - 100ULL, UINT64_MAX), 40 * PAGE);
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, fd, 0, 64 * PAGE, 0), 40 * PAGE); /* what lies before is written */
  EXPECT_EQ(transfer.job.why.code, PF_E_SHORT);
  atomic_store(&watched, -1);
  close(fd);
  EXPECT(close_region(region));
}

static bool has_begun(void *data) { return atomic_load(&((transfer_t *)data)->job.bytes_done) > 0; }

/* A pipe that blocks, is full, and is not read: the loader's thread stays free to be told to stop. Its bytes are what was said. */
static void stuck(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LENGTH), LENGTH, OPTIONS(.writable = true));
  int ends[2];
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  transfer_t transfer, filling;
  begin(&transfer, region, PF_JOB_WRITE_TO, ends[1], 0, LENGTH, -1);
  EXPECT(wait_until(has_begun, &transfer, LONG_MS));
  pf_sleep_until(pf_now_ns() + 20 * MS);
  EXPECT(!is_done(&transfer));
  atomic_store(&transfer.job.cancel, 1);
  EXPECT(wait_until(is_done, &transfer, 20000));
  EXPECT_EQ(transfer.job.why.code, PF_E_ABORTED);
  uint64_t sent = atomic_load(&transfer.job.bytes_done);
  EXPECT(sent > 0 && sent < LENGTH);
  begin(&transfer, region, PF_JOB_WRITE_TO, ends[1], sent, LENGTH - sent, -1); /* the rest, through itself */
  pf_region_t *other = open_region(backend, zero_source(), LENGTH, OPTIONS(.writable = true));
  begin(&filling, other, PF_JOB_READ_FROM, ends[0], 0, LENGTH, -1);
  EXPECT(wait_until(is_done, &transfer, 20000));
  EXPECT(wait_until(is_done, &filling, 20000));
  EXPECT_EQ(first_difference(other, 0, LENGTH, 0, LENGTH), LENGTH);
  begin(&filling, other, PF_JOB_READ_FROM, ends[0], 0, LENGTH, -1); /* nothing comes, until the region is closed */
  pf_sleep_until(pf_now_ns() + 5 * MS);
  pf_region_close(other, true);
  EXPECT(wait_until(is_done, &filling, 20000));
  EXPECT_EQ(filling.job.why.code, PF_E_CLOSED);
  close(ends[0]);
  close(ends[1]);
  EXPECT(close_region(other));
  EXPECT(close_region(region));
}

static void wrong_ends(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(LENGTH), LENGTH, OPTIONS(.writable = true));
  int ends[2], both[2];
  must(pipe2(ends, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0, "pipes");
  transfer_t transfer;
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, ends[0], 0, LENGTH, -1), 0);
  EXPECT_EQ(transfer.job.fd_errno, EBADF);
  EXPECT_EQ(run(&transfer, region, PF_JOB_READ_FROM, ends[1], 0, LENGTH, -1), 0);
  EXPECT_EQ(transfer.job.fd_errno, EBADF);
  EXPECT_EQ(run(&transfer, region, PF_JOB_READ_FROM, ends[0], 0, LENGTH, 5), 0);
  EXPECT_EQ(transfer.job.fd_errno, ESPIPE);
  close(ends[0]);
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, ends[1], 0, LENGTH, -1), 0);
  EXPECT_EQ(transfer.job.fd_errno, EPIPE);
  close(both[0]);
  EXPECT_EQ(run(&transfer, region, PF_JOB_WRITE_TO, both[1], 0, LENGTH, -1), 0);
  EXPECT_EQ(transfer.job.fd_errno, EPIPE);
  EXPECT_EQ(run(&transfer, region, PF_JOB_READ_FROM, both[1], 0, LENGTH, -1), 0);
  EXPECT_EQ(transfer.job.fd_errno, 0); /* the end */
  EXPECT_EQ(pf_transfer_fd(both[0]), -EBADF);
  close(ends[1]);
  close(both[1]);
  EXPECT(close_region(region));
}

int main(void) {
  unsigned descriptors = 0;
  for (int round = 0; round < 2; round++) { /* the first one opens what stays */
    test_each("a transfer that is interrupted and cut short brings each byte once", interrupted);
    test_each("what a full disk took is what is said", without_room);
    test_each("what finds no page is read again", place_put_back);
    test_each("a pipe that nobody reads can be left, and gone on with", stuck);
    test_each("an end that cannot be used is an error, not a wait", wrong_ends);
    if (round == 0) {
      descriptors = count_descriptors();
    }
  }
  if (count_descriptors() != descriptors) {
    printf("failed: descriptors are left open\n");
    return 1;
  }
  return summary();
}
