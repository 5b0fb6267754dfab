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

/** Whether the program break of this process can be moved so far: V8 may have mapped its code right behind it, in one process of fifty. */
export function breakHasRoom(byteLength: number): boolean {
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const heap = maps.findIndex((line) => line.endsWith('[heap]'));
  const end = BigInt(`0x${/-([0-9a-f]+)/.exec(maps[heap] ?? '')?.[1] ?? '0'}`);
  const next = BigInt(`0x${/^([0-9a-f]+)/.exec(maps[heap + 1] ?? '')?.[1] ?? 'ffffffffffff'}`);
  return heap < 0 || next - end > byteLength + (2 << 20); // the kernel leaves a gap; malloc may need some of it meanwhile
}

/** pid, parent, process group and session of each process. */
function processes(): number[][] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'latin1');
        const [, parent = 0, group = 0, session = 0] = stat
          .slice(stat.lastIndexOf(')') + 2)
          .split(' ')
          .map(Number);
        return [[Number(name), parent, group, session]];
      } catch {
        return []; // it has ended
      }
    });
}

/** Nobody of the session could continue this process group (as under setsid): then the kernel ignores SIGTSTP for its processes. */
export function isOrphanedGroup(): boolean {
  const all = new Map(processes().map((entry) => [entry[0], entry]));
  const [, , mine, session] = all.get(process.pid) ?? [];
  for (const [, parent = 0, group] of all.values()) {
    const [, , itsGroup, itsSession] = all.get(parent) ?? [];
    if (group === mine && itsSession === session && itsGroup !== mine) return false;
  }
  return true;
}
