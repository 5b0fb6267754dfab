/** A memory cgroup of a test's own, of version 1 or 2, where there is the permission to make one. Used by the process to be confined. */

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const MIB = 2 ** 20;

interface Files {
  usage: string;
  limit: string;
  /** Lines of the statistics that can be given back at once. */
  reclaimable: readonly string[];
}

const V1: Files = {
  usage: 'memory.usage_in_bytes',
  limit: 'memory.limit_in_bytes',
  reclaimable: ['total_inactive_file', 'total_active_file'],
};
const V2: Files = { usage: 'memory.current', limit: 'memory.max', reclaimable: ['inactive_file', 'active_file'] };

/** Where groups may be made, by version. */
function places(): { parent: string; files: Files }[] {
  const found = [];
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    const [, parent = '', type, options = ''] = line.split(' ');
    if (type === 'cgroup' && options.split(',').includes('memory')) found.push({ parent, files: V1 });
    if (type === 'cgroup2' && existsSync(join(parent, 'cgroup.controllers'))) found.push({ parent, files: V2 });
  }
  return found;
}

export class MemoryGroup {
  readonly path: string;
  readonly #files: Files;

  private constructor(path: string, files: Files) {
    this.path = path;
    this.#files = files;
  }

  /** A new group without a limit, or the reason why there can be none. */
  static make(name: string): MemoryGroup | string {
    let reason = 'no memory controller is mounted';
    for (const { parent, files } of places()) {
      const path = join(parent, name);
      try {
        if (files === V2) writeFileSync(join(parent, 'cgroup.subtree_control'), '+memory');
        mkdirSync(path);
        if (existsSync(join(path, files.limit))) return new MemoryGroup(path, files);
        rmdirSync(path);
        reason = `${parent} has no memory controller`;
      } catch (error) {
        reason = String(error);
      }
    }
    return reason;
  }

  /** The group that `make` made, in another process. */
  static at(path: string): MemoryGroup {
    return new MemoryGroup(path, existsSync(join(path, V1.limit)) ? V1 : V2);
  }

  join(): void {
    writeFileSync(join(this.path, 'cgroup.procs'), String(process.pid));
  }

  /** Bytes in use that cannot be given back. */
  used(): number {
    const stat = readFileSync(join(this.path, 'memory.stat'), 'utf8');
    const file = this.#files.reclaimable.reduce((sum, name) => {
      return sum + Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0);
    }, 0);
    return Number(readFileSync(join(this.path, this.#files.usage), 'utf8')) - file;
  }

  limit(bytes: number): void {
    writeFileSync(join(this.path, this.#files.limit), String(Math.ceil(bytes / MIB) * MIB));
  }

  /** Slows the group down above this. False where there is no such thing: version 1. */
  throttle(bytes: number): boolean {
    if (this.#files !== V2) return false;
    writeFileSync(join(this.path, 'memory.high'), String(Math.ceil(bytes / MIB) * MIB));
    return true;
  }

  remove(): void {
    rmdirSync(this.path);
  }
}

/** A group is busy for a moment after its last process has ended. */
export async function removeGroup(group: { remove(): void }): Promise<void> {
  for (let i = 0; ; i++) {
    try {
      return group.remove();
    } catch (error) {
      if (i === 200) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
