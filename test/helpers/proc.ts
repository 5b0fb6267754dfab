/** What /proc says of this process: open descriptors, and how an address is mapped. */
import { readdirSync, readFileSync } from 'node:fs';

/** Open descriptors, the one that counts them not among them. */
export function countDescriptors(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

export interface MappedAt {
  /** As in /proc/self/maps: 'rw-p'. */
  permissions: string;
  path: string;
  /** VmFlags of /proc/self/smaps: 'dc' not inherited, 'nh' no huge pages. */
  flags: string[];
}

/** The mapping that an address is in. */
export function mappedAt(address: bigint): MappedAt | undefined {
  let found: MappedAt | undefined;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const [, from, to, permissions = '', path = ''] =
      /^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)$/.exec(line) ?? [];
    if (from !== undefined && found !== undefined) return found;
    if (from !== undefined && address >= BigInt(`0x${from}`) && address < BigInt(`0x${to}`)) {
      found = { permissions, path, flags: [] };
    }
    if (found !== undefined && line.startsWith('VmFlags: ')) found.flags = line.slice(9).trim().split(' ');
  }
  return found;
}
