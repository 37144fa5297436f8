; What JavaScript's grammar names otherwise than TypeScript's.

(class_body member: (field_definition
  property: [(property_identifier) (private_property_identifier)] @name
  value: [(arrow_function) (function_expression)]) @definition.method)
(class_body member: (field_definition
  property: [(property_identifier) (private_property_identifier)] @name) @definition.field)
