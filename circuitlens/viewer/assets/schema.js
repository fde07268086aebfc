// @ts-check
/* Values that have the form that a JSON Schema says (as pydantic writes it); all others are its defaults. */
const Schema = (() => {
  /** @typedef {Record<string, any>} JsonSchema */

  /**
   * The schema that a `$ref` names.
   * @param {JsonSchema} schema @param {JsonSchema} root @returns {JsonSchema}
   */
  const resolved = (schema, root) => (schema.$ref ? root.$defs[schema.$ref.split("/").at(-1)] : schema);

  /** @param {unknown} value @returns {value is Record<string, unknown>} */
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  /** @type {Record<string, (value: any, schema: JsonSchema, root: JsonSchema) => boolean>} */
  const TYPES = {
    null: (value) => value === null,
    string: (value, { minLength = 0, maxLength = Infinity }) =>
      typeof value === "string" && value.length >= minLength && value.length <= maxLength,
    number: (value, { minimum = -Infinity }) => Number.isFinite(value) && value >= minimum,
    integer: (value, { minimum = -Infinity }) => Number.isSafeInteger(value) && value >= minimum,
    array: (value, { items, prefixItems = [], minItems = 0, maxItems = Infinity }, root) =>
      Array.isArray(value) && value.length >= minItems && value.length <= maxItems &&
      value.every((one, at) => fits(one, prefixItems[at] || items, root)),
    object: (value, { properties = {}, required = [], additionalProperties }, root) =>
      isObject(value) && required.every((/** @type {string} */ name) => Object.hasOwn(value, name)) &&
      Object.entries(value).every(([name, one]) => {
        const form = Object.hasOwn(properties, name) ? properties[name] : additionalProperties;
        return Boolean(form) && fits(one, form, root);
      }),
  };

  /**
   * Whether a value has the form.
   * @param {unknown} value @param {JsonSchema} schema @param {JsonSchema} root @returns {boolean}
   */
  function fits(value, schema, root) {
    const form = resolved(schema, root);
    if (form.anyOf) return form.anyOf.some((/** @type {JsonSchema} */ one) => fits(value, one, root));
    if ("const" in form && value !== form.const) return false;
    if (form.enum && !form.enum.includes(value)) return false;
    return TYPES[form.type](value, form, root);
  }

  /**
   * An object with all fields of the form: those of `value` that fit, else those of `base`, else the defaults. An
   * object of such objects has those of `value`.
   * @param {unknown} value @param {JsonSchema} schema @param {Record<string, any>} [base] @param {JsonSchema} [root]
   * @returns {any}
   */
  function fitted(value, schema, base = {}, root = schema) {
    const given = isObject(value) ? value : {};
    const { properties, additionalProperties } = resolved(schema, root);
    if (!properties) {
      const made = Object.entries(given).map(([key, one]) => [key, fitted(one, additionalProperties, base[key], root)]);
      return Object.fromEntries(made);
    }
    const fields = Object.entries(properties).map(([name, form]) => {
      const fallback = Object.hasOwn(base, name) ? base[name] : structuredClone(form.default);
      if (form.additionalProperties?.$ref) return [name, fitted(given[name], form, fallback, root)];
      return [name, Object.hasOwn(given, name) && fits(given[name], form, root) ? given[name] : fallback];
    });
    return Object.fromEntries(fields);
  }

  /**
   * The names of the fields that undo leaves alone.
   * @param {JsonSchema} schema @returns {string[]}
   */
  const withoutUndo = (schema) =>
    [schema, ...Object.values(schema.$defs)].flatMap(({ properties }) =>
      Object.keys(properties).filter((name) => properties[name].undo === false));

  return { fitted, withoutUndo };
})();
