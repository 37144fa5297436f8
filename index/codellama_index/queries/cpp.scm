(class_specifier name: [
  (type_identifier) @name
  (template_type name: (type_identifier) @name)
  (qualified_identifier name: (type_identifier) @name)] body: (_)) @definition.class
(struct_specifier name: [
  (template_type name: (type_identifier) @name)
  (qualified_identifier name: (type_identifier) @name)
  (qualified_identifier name: (template_type name: (type_identifier) @name))] body: (_)) @definition.class
(namespace_definition name: (namespace_identifier) @name) @definition.module
(namespace_definition name: (nested_namespace_specifier) @name) @definition.module
(namespace_alias_definition name: (namespace_identifier) @name) @definition.none
(alias_declaration name: (type_identifier) @name) @definition.type
(concept_definition name: (identifier) @name) @definition.type

; Methods in their class: the declarator may stand in a pointer or a reference.
(function_definition declarator: [
  (function_declarator declarator: [(field_identifier) (operator_name) (destructor_name)] @name)
  (pointer_declarator declarator:
    (function_declarator declarator: [(field_identifier) (operator_name)] @name))
  (pointer_declarator declarator: (pointer_declarator declarator:
    (function_declarator declarator: [(field_identifier) (operator_name)] @name)))
  (reference_declarator (function_declarator declarator: [(field_identifier) (operator_name)] @name))
  (reference_declarator (function_declarator declarator: (identifier) @name))
]) @definition.function
(function_definition declarator: (operator_cast) @name) @definition.method
; A template's specialisation.
(function_definition declarator: [
  (function_declarator declarator: (template_function name: (identifier) @name))
  (pointer_declarator declarator: (function_declarator declarator: (template_function name: (identifier) @name)))
]) @definition.function

; Methods outside their class: `A::b`, `A<T>::b`, `A::B::c`.
(function_definition declarator: [
  (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: [(identifier) (operator_name) (destructor_name)] @name))
  (pointer_declarator declarator: (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: [(identifier) (operator_name)] @name)))
  (pointer_declarator declarator: (pointer_declarator declarator: (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: [(identifier) (operator_name)] @name))))
  (reference_declarator (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: [(identifier) (operator_name)] @name)))
  (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (qualified_identifier
      scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
      name: [(identifier) (operator_name) (destructor_name)] @name)))
  (pointer_declarator declarator: (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (qualified_identifier
      scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
      name: [(identifier) (operator_name)] @name))))
  (reference_declarator (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (qualified_identifier
      scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
      name: [(identifier) (operator_name)] @name))))
  (function_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (qualified_identifier
      scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
      name: (qualified_identifier
        scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
        name: [(identifier) (operator_name) (destructor_name)] @name))))
]) @definition.method

; What has no body anywhere else: pure virtual methods.
(field_declaration declarator: [
  (function_declarator declarator: (field_identifier) @name)
  (pointer_declarator declarator: (function_declarator declarator: (field_identifier) @name))
  (reference_declarator (function_declarator declarator: (field_identifier) @name))]
  default_value: (number_literal)) @definition.method
(field_declaration declarator: (reference_declarator (field_identifier) @name)) @definition.field

(declaration declarator: [
  (init_declarator declarator: (reference_declarator (identifier) @name))
  (init_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (identifier) @name))
  (init_declarator declarator: (array_declarator declarator: (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (identifier) @name)))
  (qualified_identifier
    scope: [(namespace_identifier) @within (template_type name: (type_identifier) @within)]
    name: (identifier) @name)
]) @definition.variable

; Uses
(lambda_expression) @local
(declaration_list (compound_statement) @local)
(template_declaration) @outer

(using_declaration (qualified_identifier) @import)
(using_declaration (identifier) @import)

(namespace_identifier) @reference
