(function_declaration name: (identifier) @name) @definition.function
(generator_function_declaration name: (identifier) @name) @definition.function
(class_declaration name: (_) @name) @definition.class
(method_definition
  name: [(property_identifier) (private_property_identifier) (number)] @name) @definition.method
(method_definition name: (string (string_fragment) @name)) @definition.method
(variable_declarator name: (identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) @definition.function
(variable_declarator name: (identifier) @name value: (class)) @definition.class
(variable_declarator name: (identifier) @name) @definition.variable
(variable_declarator name: [
  (object_pattern [
    (shorthand_property_identifier_pattern) @name
    (pair_pattern value: (identifier) @name)
    (object_assignment_pattern left: (shorthand_property_identifier_pattern) @name)])
  (array_pattern (identifier) @name)]) @definition.variable
(variable_declarator name: (object_pattern [
    (shorthand_property_identifier_pattern) @name
    (pair_pattern value: (identifier) @name)])
  value: (call_expression function: (identifier) @_require) (#eq? @_require "require")) @definition.none
(lexical_declaration kind: "const" (variable_declarator name: (identifier) @name) @definition.constant)
(pair key: (property_identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) @definition.method
(pair key: (string (string_fragment) @name)
  value: [(arrow_function) (function_expression) (generator_function)]) @definition.method
; Keys of objects that are given a name, the outer three levels: what lies deeper is data.
(variable_declarator value: (object (pair key: (property_identifier) @name) @definition.field))
(variable_declarator value: (object (pair value:
  (object (pair key: (property_identifier) @name) @definition.field))))
(variable_declarator value: (object (pair value: (object (pair value:
  (object (pair key: (property_identifier) @name) @definition.field))))))
(assignment_expression right: (object (pair key: (property_identifier) @name) @definition.field))
(assignment_expression right: (object (pair value:
  (object (pair key: (property_identifier) @name) @definition.field))))
(assignment_expression right: (object (pair value: (object (pair value:
  (object (pair key: (property_identifier) @name) @definition.field))))))
(arguments (object (pair key: (_) @name value: [(arrow_function) (function_expression)]) @definition.none))
(assignment_expression
  left: (member_expression property: (property_identifier) @name)
  right: (class)) @definition.class
(assignment_expression
  left: (member_expression
    object: (member_expression object: (identifier) @within property: (property_identifier) @_prototype)
    property: (property_identifier) @name)
  right: [(arrow_function) (function_expression) (generator_function)]
  (#eq? @_prototype "prototype")) @definition.method
(assignment_expression
  left: (member_expression object: (identifier) @within property: (property_identifier) @name)
  right: [(arrow_function) (function_expression) (generator_function)]
  (#not-match? @within "^(exports|module|window|self|globalThis)$")) @definition.function
(assignment_expression
  left: (member_expression property: (property_identifier) @name)
  right: [(arrow_function) (function_expression) (generator_function)]) @definition.function
(assignment_expression left: (identifier) @name
  right: [(arrow_function) (function_expression) (generator_function)]) @definition.function

; Uses
(arrow_function) @local
(function_expression) @local
(generator_function) @local
(class_static_block) @local
(export_statement) @outer
(lexical_declaration) @outer
(variable_declaration) @outer
(expression_statement) @outer
(comment) @comment
(decorator) @attribute

(import_statement source: (string (string_fragment) @import))
(export_statement source: (string (string_fragment) @import))
(import_specifier name: (identifier) @import)
(import_specifier alias: (identifier) @import)
(import_clause (identifier) @import)
(namespace_import (identifier) @import)
(call_expression function: (identifier) @_require arguments: (arguments . (string (string_fragment) @import) .)
  (#eq? @_require "require"))
(variable_declarator
  name: [(identifier) @import (object_pattern (shorthand_property_identifier_pattern) @import)]
  value: (call_expression function: (identifier) @_require) (#eq? @_require "require"))

(identifier) @reference
(property_identifier) @reference
(private_property_identifier) @reference
(shorthand_property_identifier) @reference
(shorthand_property_identifier_pattern) @reference
