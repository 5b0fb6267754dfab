/** Whether there are huge pages enough, before anybody asks for them: a sentence instead of a child that dies. Any thread. */
import { readFileSync } from 'node:fs';
import { formatBytes, formatCount } from '../../observe/format.js';
import { CliError, EXIT } from '../exit.js';

export function checkHugePagesFree(pageSize: number, needed: number): void {
  const free = freePages(pageSize);
  if (free >= needed) return;
  throw new CliError(
    EXIT.unsupported,
    'ERR_PAGEFAULT_UNSUPPORTED',
    `--memory hugetlb needs ${formatCount(needed)} huge pages of ${formatBytes(pageSize)}, and ${formatCount(free)} are free`,
    `Set them aside as root: echo ${needed} > /proc/sys/vm/nr_hugepages`,
  );
}

function freePages(pageSize: number): number {
  try {
    return Number(readFileSync(`/sys/kernel/mm/hugepages/hugepages-${pageSize / 1024}kB/free_hugepages`, 'utf8'));
  } catch {
    return 0;
  }
}
