(module_definition name: (identifier) @name) @definition.module
(struct_definition (type_head [
  (identifier) @name
  (parametrized_type_expression . (identifier) @name)
  (binary_expression . (identifier) @name)
  (binary_expression . (parametrized_type_expression . (identifier) @name))])) @definition.class
(abstract_definition (type_head [
  (identifier) @name
  (parametrized_type_expression . (identifier) @name)
  (binary_expression . (identifier) @name)
  (binary_expression . (parametrized_type_expression . (identifier) @name))])) @definition.interface
(primitive_definition (type_head [(identifier) @name (binary_expression . (identifier) @name)]))
  @definition.type
(struct_definition (identifier) @name @definition.field)
(struct_definition (typed_expression . (identifier) @name) @definition.field)
(struct_definition (assignment . [(identifier) @name (typed_expression . (identifier) @name)]) @definition.field)

(function_definition (signature [
  (identifier) @name
  (call_expression . [(identifier) (operator)] @name)
  (call_expression . (field_expression value: (_) @within (identifier) @name))
  (typed_expression . (call_expression . (identifier) @name))
  (where_expression . (call_expression . [(identifier) (operator)] @name))
  (where_expression . (call_expression . (field_expression value: (_) @within (identifier) @name)))
  (where_expression . (typed_expression . (call_expression . (identifier) @name)))]))
  @definition.function
(assignment . [
  (call_expression . [(identifier) (operator)] @name)
  (call_expression . (field_expression value: (_) @within (identifier) @name))
  (typed_expression . (call_expression . (identifier) @name))
  (where_expression . (call_expression . [(identifier) (operator)] @name))
  (where_expression . (call_expression . (field_expression value: (_) @within (identifier) @name)))])
  @definition.function
(macro_definition (signature (call_expression . (identifier) @name))) @definition.macro
(assignment . (identifier) @name) @definition.variable
(assignment . (identifier) @name (operator) (arrow_function_expression)) @definition.function
(const_statement (assignment . (identifier) @name)) @definition.constant
(macrocall_expression (macro_identifier (identifier) @_macro)
  (macro_argument_list . (identifier) @name) (#eq? @_macro "enum")) @definition.enum

; Uses
(let_statement) @local
(for_statement) @local
(do_clause) @local
(const_statement) @outer
(macrocall_expression) @outer
(line_comment) @comment
(block_comment) @comment
(source_file (string_literal) @doc)
(module_definition (string_literal) @doc)

(using_statement [(identifier) (scoped_identifier) (import_path)] @import)
(import_statement [(identifier) (scoped_identifier) (import_path)] @import)
(selected_import (identifier) @import)
(selected_import (import_path (identifier) @import))
(call_expression . (identifier) @_include (argument_list (string_literal (content) @import))
  (#eq? @_include "include"))

(identifier) @reference
