// Colours as presentation states name them.

/** A P-value of 16 bits as a shade of grey. */
export const shadeOf = (value) => `rgb(${Array(3).fill(Math.min(Math.max(Math.round(value / 257), 0), 255)).join(" ")})`;

/** CIELab of 16 bits each, with the white of D50, as sRGB (PS3.3 C.10.7.1.1). */
export function colourOf([l, a, b]) {
  const [lightness, across, along] = [(l / 65535) * 100, (a / 65535) * 255 - 128, (b / 65535) * 255 - 128];
  const y = (lightness + 16) / 116;
  const back = (t) => (t > 6 / 29 ? t ** 3 : 3 * (6 / 29) ** 2 * (t - 4 / 29));
  const [X, Y, Z] = [0.9642 * back(y + across / 500), back(y), 0.8249 * back(y - along / 200)];
  const linear = [
    3.1338561 * X - 1.6168667 * Y - 0.4906146 * Z, -0.9787684 * X + 1.9161415 * Y + 0.033454 * Z, 0.0719453 * X - 0.2289914 * Y + 1.4052427 * Z,
  ];
  const shown = linear.map((each) => {
    const part = Math.min(Math.max(each, 0), 1);
    return Math.round(255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  });
  return `rgb(${shown.join(" ")})`;
}
