// A store for failure.js whose second half cannot be read while the number in `broken` (shared memory) is 1.
export default function open({ byteLength, broken }) {
  const flag = new Int32Array(broken);
  return {
    byteLength,
    read(offset, into) {
      if (Atomics.load(flag, 0) === 1 && offset >= byteLength / 2) {
        // `permanent`: trying again will not help, so the touch need not wait for faultTimeoutMs.
        throw Object.assign(new Error('the network is down'), { permanent: true });
      }
      into.fill(42);
      return into.length;
    },
  };
}
