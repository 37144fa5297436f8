(abstract_class_declaration name: (_) @name) @definition.class
(interface_declaration name: (type_identifier) @name) @definition.interface
(type_alias_declaration name: (type_identifier) @name) @definition.type
(enum_declaration name: (identifier) @name) @definition.enum
(enum_body (property_identifier) @name @definition.constant)
(enum_body (string (string_fragment) @name) @definition.constant)
(enum_assignment name: [(property_identifier) @name (string (string_fragment) @name)]) @definition.constant
(function_signature name: (identifier) @name) @definition.function
(internal_module name: [(identifier) (nested_identifier)] @name) @definition.module
(module name: [(identifier) (nested_identifier)] @name) @definition.module
(module name: (string (string_fragment) @name)) @definition.module
(method_signature name: [(property_identifier) (private_property_identifier)] @name) @definition.method
(abstract_method_signature name: (property_identifier) @name) @definition.method
(interface_body (property_signature name: (property_identifier) @name) @definition.field)
(public_field_definition
  name: [(property_identifier) (private_property_identifier)] @name) @definition.field
(public_field_definition name: [(property_identifier) (private_property_identifier)] @name
  value: [(arrow_function) (function_expression)]) @definition.method
(required_parameter (accessibility_modifier) pattern: (identifier) @name) @definition.promoted
(required_parameter "readonly" pattern: (identifier) @name) @definition.promoted

; Uses
(ambient_declaration) @outer
(import_require_clause (identifier) @import source: (string (string_fragment) @import))

(type_identifier) @reference
