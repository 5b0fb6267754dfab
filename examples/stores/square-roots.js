// A page store that computes its pages: element i of the array is the square root of i. It runs in a Worker, because the
// thread that touched the page is stopped until it is there. `trouble` is shared memory: 1 in it makes `read` fail.
export default function open({ byteLength, trouble, troubleFrom }) {
  const flag = new Int32Array(trouble);
  return {
    byteLength,
    pageSize: 65_536,
    read(offset, into) {
      if (Atomics.load(flag, 0) === 1 && offset >= troubleFrom) {
        throw Object.assign(new Error('the far end is out of order'), { permanent: true });
      }
      const numbers = new Float64Array(into.buffer, into.byteOffset, into.byteLength / 8);
      const first = offset / 8;
      for (let i = 0; i < numbers.length; i++) numbers[i] = Math.sqrt(first + i);
      return into.byteLength;
    },
  };
}
