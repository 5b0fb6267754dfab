/**
 * Huge pages for a test: those that are free, or, as root, some that are set aside for as long as the process lives. The pool
 * is the whole system's, so that one process at a time may use it.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const COUNT = '/proc/sys/vm/nr_hugepages';
const LOCK = join(tmpdir(), 'pagefault-huge-pages.lock');
const PATIENCE_MS = 30_000;

let locked = false;

function field(name: string): number {
  const [, number] = new RegExp(`^${name}: +(\\d+)`, 'm').exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
  return Number(number ?? 0);
}

/** Takes away the lock of a process that has ended without doing so. */
function dropStale(): void {
  try {
    process.kill(Number(readFileSync(join(LOCK, 'pid'), 'utf8')), 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') rmSync(LOCK, { recursive: true, force: true });
  }
}

function lock(): boolean {
  const quiet = new Int32Array(new SharedArrayBuffer(4));
  for (const end = Date.now() + PATIENCE_MS; !locked && Date.now() < end; ) {
    try {
      mkdirSync(LOCK);
      writeFileSync(join(LOCK, 'pid'), String(process.pid));
      process.on('exit', () => rmSync(LOCK, { recursive: true, force: true }));
      locked = true;
    } catch {
      dropStale();
      Atomics.wait(quiet, 0, 0, 20);
    }
  }
  return locked;
}

/** Bytes of a huge page of the default size when `count` of them are free, else why not. Given back when the process ends. */
export function reserveHugePages(count: number): number | string {
  const byteLength = field('Hugepagesize') * 1024;
  if (byteLength === 0) return 'this kernel has no huge pages';
  if (count > 0 && field('HugePages_Total') === 0 && process.getuid?.() !== 0)
    return 'no huge pages are free, and setting some aside needs root';
  if (!lock()) return 'another process keeps the huge pages';
  if (field('HugePages_Free') >= count) return byteLength;
  const before = Number(readFileSync(COUNT, 'utf8'));
  try {
    writeFileSync(COUNT, String(before + count));
  } catch {
    return 'no huge pages are free, and setting some aside needs root';
  }
  process.prependListener('exit', () => writeFileSync(COUNT, String(before)));
  return field('HugePages_Free') >= count ? byteLength : 'memory has no room for huge pages';
}
