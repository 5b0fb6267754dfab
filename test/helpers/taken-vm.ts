/** A simulated VM whose memory an engine has taken over by hand, without `serveFirecracker`. */

import { PidFd, Uffd, UnixListener, type UnixSocket } from 'pagefault/kernel';
import type { Guest, GuestEngine, GuestParts } from '#dist/guests/engine/index.js';
import { until } from './descriptors.js';
import { freshPath, SimulatedVm } from './firecracker-vm.js';

interface Told {
  base_host_virt_addr: number;
  size: number;
  offset: number;
}

export interface TakenVm {
  readonly vm: SimulatedVm;
  readonly guest: Guest;
  /** Ends the VM. */
  close(): Promise<void>;
}

/** Starts a VM and pages it. `parts`: what the engine is to be told beside what the VM says. */
export async function takeVm(
  engine: GuestEngine,
  parts: Pick<GuestParts, 'snapshot' | 'name'> & Partial<GuestParts>,
  args: readonly string[],
): Promise<TakenVm> {
  const listener = UnixListener.listen(freshPath());
  const accepted = new Promise<UnixSocket>((resolve) => {
    listener.onReadable(() => {
      const socket = listener.accept();
      if (socket !== undefined) resolve(socket);
    });
  });
  const ready = SimulatedVm.ready(listener.path, args);
  const socket = await accepted;
  await until(() => socket.fill() === 'empty' && socket.available > 0 && socket.fdCount > 0, 30_000);
  const text = Buffer.from(socket.read(socket.available) ?? []).toString();
  const regions = (JSON.parse(text) as Told[]).map(({ base_host_virt_addr, size, offset }) => ({
    address: BigInt(base_host_virt_addr),
    byteLength: size,
    offset,
  }));
  const vm = await ready;
  const uffd = Uffd.fromFd(socket.takeFd() ?? -1);
  const guest = engine.add({ uffd, pidfd: PidFd.open(vm.pid), regions, pageSize: 4096, ...parts });
  const close = async (): Promise<void> => {
    socket.close();
    listener.close();
    vm.kill();
    await vm.ended;
  };
  return { vm, guest, close };
}
