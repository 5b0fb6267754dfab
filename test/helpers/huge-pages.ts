/** Huge pages for a test: those that are free, or, as root, some that are set aside for as long as the process lives. */
import { readFileSync, writeFileSync } from 'node:fs';

const COUNT = '/proc/sys/vm/nr_hugepages';

function field(name: string): number {
  const [, number] = new RegExp(`^${name}: +(\\d+)`, 'm').exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
  return Number(number ?? 0);
}

/** Bytes of a huge page of the default size when `count` of them are free, else why not. */
export function reserveHugePages(count: number): number | string {
  const byteLength = field('Hugepagesize') * 1024;
  if (byteLength === 0) return 'this kernel has no huge pages';
  if (field('HugePages_Free') >= count) return byteLength;
  const before = Number(readFileSync(COUNT, 'utf8'));
  try {
    writeFileSync(COUNT, String(before + count));
  } catch {
    return 'no huge pages are free, and setting some aside needs root';
  }
  process.on('exit', () => writeFileSync(COUNT, String(before)));
  return field('HugePages_Free') >= count ? byteLength : 'memory has no room for huge pages';
}
