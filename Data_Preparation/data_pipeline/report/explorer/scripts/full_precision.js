// Draws the map where WebGPU has no half-precision numbers, as on processors and many GPUs, which the atlas asks for.
//
// The atlas keeps only densities in half precision. Here they are of full precision: shaders are rewritten, the buffers
// of densities are made twice as large, and densities that are read back are rounded to half precision. Where WebGPU
// has the feature, nothing is changed.
(() => {
  "use strict";
  const FEATURE = "shader-f16";
  if (!navigator.gpu || typeof GPU === "undefined") return;
  const SCRATCH = GPUBufferUsage.STORAGE;
  const READ_BACK = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;

  const request = GPU.prototype.requestAdapter;
  GPU.prototype.requestAdapter = async function (...options) {
    const adapter = await request.apply(this, options);
    if (adapter === null || adapter.features.has(FEATURE)) return adapter;
    const requestDevice = adapter.requestDevice.bind(adapter);
    Object.defineProperty(adapter, "features", { value: new Set([...adapter.features, FEATURE]) });
    adapter.requestDevice = async (wanted = {}) => {
      const requiredFeatures = [...(wanted.requiredFeatures ?? [])].filter((name) => name !== FEATURE);
      return inFullPrecision(await requestDevice({ ...wanted, requiredFeatures }));
    };
    return adapter;
  };

  function inFullPrecision(device) {
    const readBack = new WeakSet();
    const createShaderModule = device.createShaderModule.bind(device);
    const createBuffer = device.createBuffer.bind(device);
    const createCommandEncoder = device.createCommandEncoder.bind(device);
    device.createShaderModule = (shader) =>
      createShaderModule({ ...shader, code: shader.code.replace(/enable f16;/, "").replace(/\bf16\b/g, "f32") });
    device.createBuffer = (wanted) => {
      if (wanted.usage === SCRATCH) return createBuffer({ ...wanted, size: 2 * wanted.size });
      if (wanted.usage !== READ_BACK) return createBuffer(wanted);
      const buffer = createBuffer({ ...wanted, size: 2 * wanted.size });
      const mapAsync = buffer.mapAsync.bind(buffer);
      const getMappedRange = buffer.getMappedRange.bind(buffer);
      buffer.mapAsync = (mode, offset = 0, size = wanted.size) => mapAsync(mode, 2 * offset, 2 * size);
      buffer.getMappedRange = () => toHalfPrecision(new Float32Array(getMappedRange()));
      readBack.add(buffer);
      return buffer;
    };
    device.createCommandEncoder = (...options) => {
      const encoder = createCommandEncoder(...options);
      const copy = encoder.copyBufferToBuffer.bind(encoder);
      encoder.copyBufferToBuffer = (source, from, target, to, size) =>
        readBack.has(target) ? copy(source, 2 * from, target, 2 * to, 2 * size) : copy(source, from, target, to, size);
      return encoder;
    };
    return device;
  }

  // Densities are not negative; those too small for half precision become 0, those too large its largest number.
  function toHalfPrecision(values) {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    const half = new Uint16Array(values.length);
    for (let i = 0; i < bits.length; i++) {
      const exponent = (bits[i] >> 23) - 112;
      half[i] = exponent <= 0 ? 0 : exponent >= 31 ? 0x7bff : (exponent << 10) | ((bits[i] >> 13) & 0x3ff);
    }
    return half.buffer;
  }
})();
