/** Small file systems of the real kernel, that run full and fail: mounted for one test, as root. Where mounting is refused, the reason. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** Runs a command; undefined when it did well, else what it said. */
export function refusal(command: string, ...args: string[]): string | undefined {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status === 0) return undefined;
  return `${command}: ${error?.message ?? stderr.trim().split('\n').at(-1)}`;
}

function must(command: string, ...args: string[]): void {
  const refused = refusal(command, ...args);
  if (refused !== undefined) throw new Error(refused);
}

const folders: string[] = [];
const mounts: string[] = [];

function cleanUp(): void {
  for (const mount of mounts.splice(0).reverse()) refusal('umount', '-l', mount);
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}
process.on('exit', cleanUp);

/** A mounted file system. */
export class Disk {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  /** The block device: '/dev/loop3'. */
  device(): string {
    const line = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .find((each) => each.split(' ')[1] === this.path);
    return line?.split(' ')[0] ?? '';
  }

  /** `options` as `mount -o remount` takes them: 'size=8m', 'ro'. */
  remount(options: string): void {
    must('mount', '-o', `remount,${options}`, this.path);
  }

  /** Writes out what the kernel has in memory. */
  sync(): void {
    must('sync', '-f', this.path);
  }

  unmount(): void {
    must('umount', this.path);
    mounts.splice(mounts.indexOf(this.path), 1);
  }

  /** Path of a file on it. */
  file(name: string): string {
    return join(this.path, name);
  }
}

function mount(...args: string[]): Disk | string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-disk-'));
  folders.push(folder);
  const path = join(folder, 'disk');
  mkdirSync(path);
  if (process.getuid?.() !== 0) return 'only root can mount a file system';
  const refused = refusal('mount', ...args, path);
  if (refused !== undefined) return refused;
  mounts.push(path);
  return new Disk(path);
}

/** A tmpfs of so many bytes. */
export function memoryDisk(byteLength: number): Disk | string {
  return mount('-t', 'tmpfs', '-o', `size=${byteLength}`, 'pagefault-test');
}

/** Makes an ext4 file system in a file. Without a journal there is nothing that ends it when a write fails. */
export function formatDisk(image: string, byteLength: number, journal = false): string | undefined {
  const features = journal ? [] : ['-O', '^has_journal'];
  return (
    refusal('truncate', '-s', String(byteLength), image) ??
    refusal('mkfs.ext4', '-q', '-F', '-m', '0', ...features, '-E', 'lazy_itable_init=0,nodiscard', image)
  );
}

/** The file system in a file. */
export function mountImage(image: string, options = ''): Disk | string {
  return mount('-o', `loop${options === '' ? '' : `,${options}`}`, image);
}

/** An ext4 of so many bytes. */
export function imageDisk(byteLength: number): Disk | string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-image-'));
  folders.push(folder);
  const image = join(folder, 'image');
  return formatDisk(image, byteLength) ?? mountImage(image);
}

/** Gives a disk to a test, or skips it; whatever was mounted meanwhile goes with the test. */
export async function withDisk(
  t: TestContext,
  disk: Disk | string,
  body: (disk: Disk) => Promise<void>,
): Promise<void> {
  if (typeof disk === 'string') {
    cleanUp();
    return t.skip(disk);
  }
  try {
    await body(disk);
  } finally {
    cleanUp();
  }
}
