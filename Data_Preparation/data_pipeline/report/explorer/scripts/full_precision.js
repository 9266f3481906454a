// Draws the map where WebGPU has no half-precision numbers, as on processors and many GPUs, which the atlas asks for.
//
// The atlas keeps only densities in half precision. Here they are of full precision: shaders are rewritten, the buffers
// of densities are made twice as large, and densities that are read back are rounded to half precision. Where WebGPU
// has the feature, nothing is changed.
//
// A processor needs more than 20 microseconds for a point. Where it draws, at most 100,000 are drawn, evenly spaced among
// all, and the page says so; searches, charts and selections are of all points.
(() => {
  "use strict";
  const FEATURE = "shader-f16";
  if (!navigator.gpu || typeof GPU === "undefined") return;
  const SCRATCH = GPUBufferUsage.STORAGE;
  const MAX_DRAWN = 100_000;
  const READ_BACK = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;

  const request = GPU.prototype.requestAdapter;
  GPU.prototype.requestAdapter = async function (...options) {
    const adapter = await request.apply(this, options);
    if (adapter === null || adapter.features.has(FEATURE)) return adapter;
    const requestDevice = adapter.requestDevice.bind(adapter);
    Object.defineProperty(adapter, "features", { value: new Set([...adapter.features, FEATURE]) });
    adapter.requestDevice = async (wanted = {}) => {
      const requiredFeatures = [...(wanted.requiredFeatures ?? [])].filter((name) => name !== FEATURE);
      const device = inFullPrecision(await requestDevice({ ...wanted, requiredFeatures }));
      return isProcessor(adapter.info) ? withFewerPoints(device) : device;
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

  function isProcessor(info) {
    return info.isFallbackAdapter || ["swiftshader", "llvmpipe"].includes(info.architecture);
  }

  function withFewerPoints(device) {
    const createShaderModule = device.createShaderModule.bind(device);
    const createCommandEncoder = device.createCommandEncoder.bind(device);
    const points = /fn points_vs\(\s*@builtin\(instance_index\) index: u32,([^{]*)\{/;
    let canSkip = false;
    device.createShaderModule = (shader) => {
      canSkip ||= points.test(shader.code);
      const step = `max(1u, (uniforms.count + ${MAX_DRAWN - 1}u) / ${MAX_DRAWN}u)`;
      const skipping = `fn points_vs(@builtin(instance_index) drawn: u32,$1{ let index = drawn * ${step};`;
      return createShaderModule({ ...shader, code: shader.code.replace(points, skipping) });
    };
    device.createCommandEncoder = (...options) => {
      const encoder = createCommandEncoder(...options);
      const beginRenderPass = encoder.beginRenderPass.bind(encoder);
      encoder.beginRenderPass = (description) => {
        const pass = beginRenderPass(description);
        const draw = pass.draw.bind(pass);
        pass.draw = (vertices, instances = 1, ...firsts) => {
          const step = canSkip ? Math.max(1, Math.ceil(instances / MAX_DRAWN)) : 1;
          if (step > 1) say(`The processor draws one of ${step} points. A browser with a GPU draws all of them.`);
          draw(vertices, Math.ceil(instances / step), ...firsts);
        };
        return pass;
      };
      return encoder;
    };
    return device;
  }

  function say(text) {
    const id = "elm-note";
    const note = document.getElementById(id) ?? document.createElement("div");
    note.id = id;
    note.textContent = text;
    note.style.cssText =
      "position:fixed;bottom:0;left:50%;transform:translateX(-50%);padding:2px 8px;font:12px system-ui,sans-serif;" +
      "color:#fff;background:#334155;border-radius:4px 4px 0 0;pointer-events:none;z-index:1000";
    if (!note.isConnected) document.body.append(note);
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
