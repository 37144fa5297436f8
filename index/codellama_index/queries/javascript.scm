; Specific patterns stand before general ones: of several that match one name, the first wins.

(function_declaration name: (identifier) @name) @definition.function
(generator_function_declaration name: (identifier) @name) @definition.function
(class_declaration name: (_) @name) @definition.class

(class_body (method_definition name: [
  (property_identifier) (private_property_identifier)
] @name) @definition.method)
(object (method_definition name: (property_identifier) @name) @definition.method)
(object (pair key: (property_identifier) @name value: [
  (arrow_function) (function_expression) (generator_function)
]) @definition.method)

; Functions and classes bound to a name
(variable_declarator name: (identifier) @name value: [
  (arrow_function) (function_expression) (generator_function)
]) @definition.function
(variable_declarator name: (identifier) @name value: (class)) @definition.class

; Foo.prototype.bar = function …, Foo.bar = function …, exports.bar = function …
(assignment_expression
  left: (member_expression
    object: (member_expression object: (identifier) @owner property: (property_identifier) @_prototype)
    property: (property_identifier) @name)
  right: [(arrow_function) (function_expression) (generator_function)]
  (#eq? @_prototype "prototype")) @definition.method
(assignment_expression
  left: (member_expression property: (property_identifier) @name)
  right: [(arrow_function) (function_expression) (generator_function) (class)]) @definition.function

; Variables and constants, destructured ones too
(lexical_declaration kind: "const" (variable_declarator name: (identifier) @name) @definition.constant)
(variable_declarator name: (identifier) @name) @definition.variable
(variable_declarator
  name: (object_pattern [
    (shorthand_property_identifier_pattern) @name
    (pair_pattern value: (identifier) @name)
  ])
  value: [(identifier) (member_expression) (object) (array)]) @definition.constant
(variable_declarator name: (array_pattern (identifier) @name)) @definition.constant

; The fields of an object that has a name
(variable_declarator name: (identifier)
  value: (object (pair key: (property_identifier) @name) @definition.field))
(variable_declarator name: (identifier)
  value: (object (pair key: (property_identifier)
    value: (object (pair key: (property_identifier) @name) @definition.field))))
(expression_statement (assignment_expression left: (member_expression)
  right: (object (pair key: (property_identifier) @name) @definition.field)))

[(arrow_function) (function_expression) (generator_function) (class_static_block)] @anonymous

(import_statement source: (string (string_fragment) @import.module))
(import_specifier name: (identifier) @import.name)
(import_clause (identifier) @import.name)
(namespace_import (identifier) @import.name)
(call_expression
  function: [(identifier) (import)] @_require
  arguments: (arguments . (string (string_fragment) @import.module))
  (#any-of? @_require "require" "import"))
