(function_declaration name: (identifier) @name) @definition.function
(method_declaration
  receiver: (parameter_list (parameter_declaration type: [
    (type_identifier) @within
    (generic_type type: (type_identifier) @within)
    (pointer_type [(type_identifier) @within (generic_type type: (type_identifier) @within)])
    (parenthesized_type (pointer_type (type_identifier) @within))]))
  name: (field_identifier) @name) @definition.method
(type_spec name: (type_identifier) @name type: (struct_type)) @definition.class
(type_spec name: (type_identifier) @name type: (interface_type)) @definition.interface
(type_spec name: (type_identifier) @name) @definition.type
(type_alias name: (type_identifier) @name) @definition.type
(const_spec (identifier) @name) @definition.constant
(var_spec (identifier) @name) @definition.variable
(field_declaration name: (field_identifier) @name) @definition.field
(field_declaration !name type: [
  (type_identifier) @name
  (qualified_type name: (type_identifier) @name)
  (generic_type type: (type_identifier) @name)]) @definition.field
(method_elem name: (field_identifier) @name) @definition.method

; Uses
(func_literal) @local
(type_declaration) @outer
(const_declaration) @outer
(var_declaration) @outer
(comment) @comment

(import_spec path: (interpreted_string_literal (interpreted_string_literal_content) @import))
(import_spec name: (package_identifier) @import)

(identifier) @reference
(field_identifier) @reference
(type_identifier) @reference
(package_identifier) @reference
