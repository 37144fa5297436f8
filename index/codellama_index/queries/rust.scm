(function_item name: (identifier) @name) @definition.function
(function_signature_item name: (identifier) @name) @definition.function
(struct_item name: (type_identifier) @name) @definition.class
(union_item name: (type_identifier) @name) @definition.class
(enum_item name: (type_identifier) @name) @definition.enum
(enum_variant name: (identifier) @name) @definition.constant
(trait_item name: (type_identifier) @name) @definition.interface
(type_item name: (type_identifier) @name) @definition.type
(associated_type name: (type_identifier) @name) @definition.type
(const_item name: (identifier) @name) @definition.constant
(static_item name: (identifier) @name) @definition.variable
(mod_item name: (identifier) @name) @definition.module
(macro_definition name: (identifier) @name) @definition.macro
(field_declaration name: (field_identifier) @name) @definition.field
(impl_item type: [
  (type_identifier) @name
  (generic_type type: [(type_identifier) @name (scoped_type_identifier name: (type_identifier) @name)])
  (scoped_type_identifier name: (type_identifier) @name)
  (primitive_type) @name
  (dynamic_type trait: (type_identifier) @name)
  (reference_type type: (type_identifier) @name)
  (reference_type type: (generic_type type: (type_identifier) @name))]) @scope

; Uses
(closure_expression) @local
(line_comment) @comment
(block_comment) @comment
(attribute_item) @attribute

(use_declaration argument: (identifier) @import)
(use_declaration argument: (scoped_identifier) @import)
(use_declaration argument: (scoped_identifier name: (identifier) @import))
(use_declaration argument: (use_as_clause path: (_) @import alias: (identifier) @import))
(use_declaration argument: (scoped_use_list path: (_) @import))
(use_declaration argument: (use_wildcard (_) @import))
(use_list [(identifier) @import (scoped_identifier name: (identifier) @import)])
(use_list (use_as_clause path: (_) @import alias: (identifier) @import))
(use_list (scoped_use_list path: (_) @import))
(extern_crate_declaration name: (identifier) @import)

(identifier) @reference
(field_identifier) @reference
(type_identifier) @reference
(shorthand_field_identifier) @reference
